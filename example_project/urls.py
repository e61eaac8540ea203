from django.contrib import admin
from django.urls import include, path

from giftcards.watch.metrics import metrics

admin.site.site_header = admin.site.site_title = "Example Shop"
# The first page of the admin begins with the work that waits for staff.
admin.site.index_template = "admin/giftcards/index.html"

urlpatterns = [
    path("admin/", admin.site.urls),
    path("api/", include("example_project.api.urls")),
    path("cards/", include("giftcards.delivery.urls")),
    path("metrics", metrics),
    path("language/", include("django.conf.urls.i18n")),
    path("", include("example_project.storefront.urls")),
]
