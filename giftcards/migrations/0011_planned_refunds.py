from decimal import Decimal

from django.db import migrations, models


def _is_more_than_nothing(amount: str) -> models.GeneratedField:
    return models.GeneratedField(
        db_persist=True,
        expression=models.ExpressionWrapper(
            models.Q((f"{amount}__gt", 0)), output_field=models.BooleanField()
        ),
        output_field=models.BooleanField(),
    )


class Migration(migrations.Migration):
    dependencies = [("giftcards", "0010_ledger_findings")]

    operations = [
        migrations.AddField(
            model_name="order",
            name="planned_amount",
            field=models.DecimalField(
                db_default=Decimal(0),
                decimal_places=2,
                default=Decimal(0),
                editable=False,
                max_digits=14,
                verbose_name="to be paid back",
            ),
        ),
        migrations.AddField(
            model_name="order",
            name="has_paid_back",
            field=_is_more_than_nothing("paid_back_amount"),
        ),
        migrations.AddField(
            model_name="order", name="has_planned", field=_is_more_than_nothing("planned_amount")
        ),
        migrations.AddIndex(
            model_name="order",
            index=models.Index(
                fields=["has_paid_back", "-created_at", "-id"],
                name="giftcards_order_has_paid_back",
            ),
        ),
        migrations.AddIndex(
            model_name="order",
            index=models.Index(
                fields=["has_planned", "-created_at", "-id"], name="giftcards_order_has_planned"
            ),
        ),
        migrations.AddConstraint(
            model_name="order",
            constraint=models.CheckConstraint(
                condition=models.Q(("planned_amount__gte", 0)), name="giftcards_order_planned"
            ),
        ),
    ]
