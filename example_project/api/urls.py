from __future__ import annotations

from django.urls import path

from example_project.api import views

app_name = "api"
urlpatterns = [
    path("token/", views.TokenView.as_view(), name="token"),
    path("offers/", views.OffersView.as_view(), name="offers"),
    path("orders/", views.OrdersView.as_view(), name="orders"),
    path("orders/<slug:reference>/", views.OrderView.as_view(), name="order"),
    path("orders/<slug:reference>/cards/", views.CardsView.as_view(), name="cards"),
]
