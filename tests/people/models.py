"""A shop's user model with a UUID as key, an address as name, a proxy and a subclass."""

from __future__ import annotations

import uuid

from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.db import models


class Person(AbstractBaseUser):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    address = models.EmailField(unique=True)

    objects = BaseUserManager["Person"]()

    USERNAME_FIELD = "address"


class Regular(Person):
    class Meta:
        proxy = True


class Reseller(Person):
    shop = models.CharField(max_length=100)
