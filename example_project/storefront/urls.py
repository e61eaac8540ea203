from __future__ import annotations

from django.urls import path

from example_project.storefront import views

app_name = "storefront"
urlpatterns = [
    path("", views.shelf, name="shelf"),
    path("buy/<int:pk>/", views.product, name="product"),
    path("orders/", views.orders, name="orders"),
    path("orders/<int:pk>/", views.order, name="order"),
    path("orders/<int:pk>/pay/", views.payment, name="payment"),
    path("mailbox/", views.mails, name="mails"),
    path("mailbox/<str:key>/", views.mail, name="mail"),
    path("mailbox/<str:key>/html/", views.mail_html, name="mail_html"),
]
