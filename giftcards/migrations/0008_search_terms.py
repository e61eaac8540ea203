"""Search terms of the orders that are there, in short transactions; goes on where it was stopped.

Later orders have theirs from the start, or get them from the tick if an older process places them.
"""

from typing import Any

from django.db import migrations, transaction

from giftcards.search_terms import terms_of

COLUMNS = (
    'reference',
    'group',
    'customer_email',
    'customer_phone',
    'customer_name',
    'recipient_email',
    'recipient_name',
)
BATCH = 500


def fill(apps: Any, schema_editor: Any) -> None:
    using = schema_editor.connection.alias
    orders = apps.get_model('giftcards', 'Order').objects.using(using).order_by('pk')
    state = apps.get_model('giftcards', 'ProviderState').objects.using(using)
    terms = apps.get_model('giftcards', 'OrderTerm').objects.using(using)
    place = state.values_list('terms_place', flat=True).first() or 0
    while keys := list(orders.filter(pk__gt=place).values_list('pk', flat=True)[:BATCH]):
        place = keys[-1]
        with transaction.atomic(using=using):
            # A write first, for SQLite; then no process corrects or erases these orders.
            terms.filter(order__in=keys).delete()
            rows = orders.filter(pk__in=keys).select_for_update()
            terms.bulk_create(
                (
                    terms.model(order_id=row['pk'], kind=kind, term=term)
                    for row in rows.values('pk', *COLUMNS)
                    for kind, term in sorted(terms_of(row))
                ),
                batch_size=BATCH,
                ignore_conflicts=True,
            )
        state.update(terms_place=place)


class Migration(migrations.Migration):

    atomic = False

    dependencies = [
        ('giftcards', '0007_search'),
    ]

    operations = [
        migrations.RunPython(fill, migrations.RunPython.noop, elidable=True),
    ]
