# The example shop, with the app as a wheel. compose.yaml says what runs in it.
FROM python:3.13-trixie@sha256:c68b61ac211bc17bda0dfabff372246fd7dbb7dceaeabdb01cd6042a197c53c2 AS build
ENV UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_PROJECT_ENVIRONMENT=/venv
WORKDIR /source
COPY . .
RUN python -m pip install --no-cache-dir uv==0.13.9 \
    && uv sync --locked --no-default-groups --group container --extra q2 --extra metrics --no-editable
# No secret is needed for it, but the settings ask for some.
RUN DJANGO_SECRET_KEY=none GIFTCARDS_API_KEY=none GIFTCARDS_ENCRYPTION_KEYS=none EXAMPLE_DIR=/tmp/none \
    /venv/bin/python manage.py collectstatic --no-input --settings example_project.container

FROM python:3.13-slim-trixie@sha256:9662417aace5ae7b8e2609cce472b72a8958e134ba372808abe9cc1a0c0125e6
ENV DJANGO_SETTINGS_MODULE=example_project.container \
    EXAMPLE_DIR=/data \
    PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1
WORKDIR /shop
COPY --from=build /venv /venv
COPY --from=build /source/static static
COPY manage.py ./
COPY example_project example_project
RUN useradd --uid 1000 shop && install --directory --owner shop --mode 700 /data
USER 1000
CMD ["gunicorn", "--bind=0.0.0.0:8000", "--workers=2", "django.core.wsgi:get_wsgi_application()"]
