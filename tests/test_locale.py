"""French and Arabic: all texts are translated, and the compiled files match the written ones."""

from __future__ import annotations

import gettext
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.utils import translation

from giftcards.engine.recovering import adopt
from giftcards.fulfilment import place_order
from giftcards.models import Order, ProviderState, StatusChange
from giftcards.rules.problems import WORDINGS, Problem
from giftcards.statuses import Status
from tests.builders import PARTIAL, PRODUCT, TYPE, make_guide_order, settle
from tests.catalogues import (
    LANGUAGES,
    PACKAGE,
    assert_same_texts,
    catalogue,
    entries,
    needs,
    placeholders,
    run,
)
from tests.pages import (
    ADD,
    LIST,
    SEARCH,
    errors,
    hidden,
    messages,
    order_page,
    read,
    rows,
    sign_in,
    text,
)
from tests.stage import ago, refuse_key

SHOP = PACKAGE.parent / "example_project/storefront"
# The plural forms that are used for a single number.
SINGLE_FORMS: dict[str, set[int]] = {"fr": set(), "ar": {0, 1, 2}}
PLURAL_FORMS = {"fr": 2, "ar": 6}
PROVIDER = "/admin/giftcards/providerstate/"


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_text_and_no_plural_form_is_left_untranslated(language: str) -> None:
    po = catalogue(language, "po")
    found = entries(po)
    assert len(found) > 100
    assert [ids for ids, translations in found.items() if not all(translations)] == []
    assert re.findall(r"^#(?:,.*\bfuzzy\b|~).*$", po.read_text(), re.MULTILINE) == []
    counted = [len(translations) for ids, translations in found.items() if len(ids) == 2]
    assert len(counted) >= 2
    assert set(counted) == {PLURAL_FORMS[language]}


@pytest.mark.parametrize("root", [PACKAGE, SHOP], ids=["giftcards", "storefront"])
def test_french_has_a_space_that_does_not_break_before_a_double_sign(root: Path) -> None:
    found = [text for texts in entries(catalogue("fr", "po", root)).values() for text in texts]
    wrong = re.compile(r"[^\u00a0«][:;?!»](?=[\s\"<.,)]|$)|«[^\u00a0]")
    assert [text for text in found if wrong.search(text)] == []


@pytest.mark.parametrize("root", [PACKAGE, SHOP], ids=["giftcards", "storefront"])
def test_french_has_one_kind_of_apostrophes(root: Path) -> None:
    found = [text for texts in entries(catalogue("fr", "po", root)).values() for text in texts]
    assert [text for text in found if re.search(r"\w'\w", text)] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_translations_have_the_placeholders_of_the_original(language: str) -> None:
    wrong = {}
    for ids, translations in entries(catalogue(language, "po")).items():
        expected = placeholders(ids[-1])
        for number, translated in enumerate(translations):
            got = placeholders(translated)
            # A form such as "two orders" does not need the number.
            without_number = [name for name in expected if "count" not in name]
            # In French, the first form is also used for zero, which does not occur in some texts.
            singles = SINGLE_FORMS[language] | (set() if "%(count)" in ids[0] else {0})
            may_spell_out = len(ids) == 2 and number in singles
            is_spelt_out = may_spell_out and got in ([], without_number)
            if got != expected and not is_spelt_out:
                wrong[translated] = (got, expected)
    assert wrong == {}


@pytest.mark.parametrize("language", LANGUAGES)
def test_translations_begin_and_end_like_the_original(language: str) -> None:
    """A sentence has to stay a sentence, and a label a label."""
    wrong = [
        (ids, translated)
        for ids, translations in entries(catalogue(language, "po")).items()
        for translated in translations
        if ids[-1].endswith(".") != translated.endswith(".")
    ]
    assert wrong == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_compiled_catalogue_matches_the_written_one(language: str) -> None:
    with catalogue(language, "mo").open("rb") as compiled:
        known: dict[Any, str] = gettext.GNUTranslations(compiled)._catalog  # type: ignore[attr-defined]
    written: dict[Any, str] = {}
    for ids, translations in entries(catalogue(language, "po")).items():
        if len(ids) == 1:
            written[ids[0]] = translations[0]
        else:
            written |= {(ids[0], number): form for number, form in enumerate(translations)}
    assert f"nplurals={PLURAL_FORMS[language]};" in known.pop("")
    assert known == written


@pytest.mark.parametrize("language", LANGUAGES)
def test_gettext_finds_no_mistake_in_the_catalogue(language: str) -> None:
    needs("msgfmt")
    said = run("msgfmt", "--check", "-o", "/dev/null", catalogue(language, "po"), cwd=PACKAGE)
    assert said == ""


def test_the_catalogues_contain_every_text_of_the_code_and_no_other(tmp_path: Path) -> None:
    needs("xgettext", "msgmerge", "msguniq", "msgattrib")
    assert_same_texts(PACKAGE, tmp_path)


# Regular expressions for words that readers found misleading, stilted or too technical, and for
# words that would be a second name for the same thing.
AVOIDED = {
    "en": (
        "by itself|by themselves|became of|[Gg]uess|[Aa]sking on|so much",
        "nothing twice|nobody can tell|and may cost|than it may|had it sent,|has had|Who has made",
        "Those who run|Telling the shop|name each other|rders again what|all that we owed",
        r"In the admin is|Without %|sealed| at %\(at\)s",
        "any more|eanwhile|all the same|looked for|f this stays|f it lasts|mostly|[Ww]hoever",
        "such as: |needs? a look|[Aa] person (?:has|approves|decides)|for a person|left alone",
        "(?:been|be|not) told|of no order|kept for you|speaks of|put right|had the order|goes on",
        r"[Dd]earer|that can be read|, then tick|yet to |was held up|(?<!\()\bids?\b|at present",
        r"\b(?:[Tt]ake[ns]?|[Tt]ook) back|gives? it up|problem remains|be asked|paid you back",
        "waits for a|has to say|say on the|order here|are the (?:first|newest|latest)|the shelf",
        "Nothing is bought|[Tt]ick this off|in the setting |f this continues|ook at it again",
    ),
    "fr": (
        "livrée, recréditée|grand livre|journal du fournisseur|scell|déplace pas|votre support",
        "Part des cartes|à présent$|[dD]’?'?elle[s]?-même|de soi-même|propre nom|rien deux fois",
        "[Oo]n vous offre|[Rr]égler cette|n’a abouti|entièrement remboursé|^L’argent|^Combien",
        r"Quiconque|\bgardez-l|carte .* est indisponible|éjà affichées|Boîte aux|dans un fichier",
        r"[ée]té noté|[ad] noté|déjà noté|’est noté|recrédité le prix|boutique échoue|\btype$",
        "a affiché le code|Afficher la carte|Supposée|supposée|suspendues|son support",
    ),
    "ar": (
        "أُعيد المبلغ$|يُستحَق للزبون|آل إليه|آلت إليه|على الزبون الانتظار|المُحتفَظ|لا تدفع شيئًا",
        "لتسليمه|بـ%|مخمَّن|يُشترَ الطلب|تم شراؤه|النوع|الأنواع|الفئة السعرية|دفتر|الكشف|في كشفه",
        "يغادر|[;?]|إلى الرصيد|بيئة الاختبار|رقم PIN|استخدم|محارف|إخفاق",
        "لنفسك|وإما مال|تأخّر المال|على أبعد تقدير|مقابل ما ينقص|عُرضت من قبل|تُشترى الطلبات",
        "قاعدة المتجر|لا يُعرف أحد|امحُ بياناتي|اتصالات|رصيدنا|فريق المتجر|الموظفين|هذا العرض",
        "كشف رم|كشف الرم|مكشوف|كُشف",
        # The texts address one person and not several.
        r"\b\w+وا\b|\b(?!تحكم|التحكم)\w{3,}كم\b",
    ),
}


@pytest.mark.parametrize("root", [PACKAGE, SHOP], ids=["package", "shop"])
@pytest.mark.parametrize("language", AVOIDED)
def test_no_text_has_a_word_that_was_found_to_mislead(language: str, root: Path) -> None:
    found = entries(catalogue("fr" if language == "en" else language, "po", root))
    texts = (ids if language == "en" else forms for ids, forms in found.items())
    avoided = re.compile("|".join(AVOIDED[language]))
    assert [text for each in texts for text in each if avoided.search(text)] == []


# Pages for staff.


@pytest.fixture
def order(db: None) -> Order:
    """The provider's example: 3 of 5 cards were delivered, and the rest was refunded."""
    return settle("web-1042", PARTIAL, sale_price=Decimal(550))


FRENCH = (
    [
        ["", "Calcul", "Montant"],
        ["Le fournisseur"],
        ["Commandé", "5 × 490", "2 450 DA"],
        ["Débité", "3 × 490", "1 470 DA"],
        ["Recrédité par le fournisseur", "2 × 490", "980 DA"],
    ],
    "3 cartes livrées sur 5. Le fournisseur a recrédité 2 × 490 = 980 DA le",
    "Il est dû 2 × 550 = 1 100 DA au client.",
    "Statut : Livrée en partie Produit :",
)
ARABIC = (
    [
        ["", "الحساب", "المبلغ"],
        ["المزوّد"],
        ["المطلوب", "5 × 490", "2 450 دج"],
        ["المبلغ المقتطع", "3 × 490", "1 470 دج"],
        ["المُعاد إلى رصيد المتجر", "2 × 490", "980 دج"],
    ],
    "سُلِّم 3 من 5 بطاقات. أعاد المزوّد 2 × 490 = 980 دج إلى رصيد المتجر في",
    "يجب إعادة 2 × 550 = 1 100 دج إلى الزبون.",
    "الحالة: مُسلَّم جزئيًا المنتج:",
)


@pytest.mark.parametrize(
    ("language", "breakdown", "phrases"),
    [("fr", FRENCH[0], FRENCH[1:]), ("ar", ARABIC[0], ARABIC[1:])],
)
def test_the_page_of_an_order_is_translated(
    order: Order, language: str, breakdown: list[list[str]], phrases: tuple[str, ...]
) -> None:
    browser = sign_in(superuser=True, headers={"accept-language": language})
    html = read(browser.get(order_page(order)))
    assert rows(html, "giftcards-breakdown")[:5] == breakdown
    for phrase in phrases:
        assert phrase in text(html)
    assert f'lang="{language}"' in html
    assert ('dir="rtl"' in html) == (language == "ar")


def pages_of_a_shop_in_trouble(language: str) -> list[str]:
    """Return the pages of orders in all statuses, with every problem, as HTML."""
    every_problem = [
        Problem(code, dict.fromkeys(wording.parameters, 1)) for code, wording in WORDINGS.items()
    ]
    contradicted = {"status": Status.PARTIALLY_FILLED, "delivered": 3, "ordered": 5, "cards": 2}
    every_problem += [Problem("contradicted", contradicted), Problem("not_whole", contradicted)]
    make_guide_order(Status.REFUNDED, price_per_card=None, problems=every_problem)
    troubled = make_guide_order(Status.PLACING, problems=every_problem[1:])
    assert troubled.acknowledge(every_problem[1], by="amina")
    assert troubled.move(Status.REJECTED, source="staff", details=every_problem)
    browser = sign_in(superuser=True, headers={"accept-language": language})
    lost = make_guide_order(Status.UNCONFIRMED)
    adopted = make_guide_order(Status.UNCONFIRMED)
    assert adopt(adopted, "B1", source=StatusChange.Source.STAFF)
    resolve_page = order_page(lost, "resolve")
    ProviderState.objects.pause(ProviderState.Pause.RATE, detail="", until=ago(-60))
    refuse_key()
    pages = [
        browser.get(LIST),
        browser.get(PROVIDER),
        browser.get(order_page(troubled)),
        *(browser.get(order_page(make_guide_order(status))) for status in Status),
        browser.get(resolve_page),
        browser.post(
            resolve_page,
            {
                **hidden(read(browser.get(resolve_page))),
                "outcome": "adopt-other",
                "provider_order_id": "no id",
            },
        ),
        browser.get(order_page(adopted, "release")),
        browser.get(ADD),
        browser.post(SEARCH, {"secret": "x"}),
        browser.post(SEARCH, {"secret": "code: x"}),
    ]
    return [read(page) for page in pages]


def english_texts_without(language: str) -> list[str]:
    """Return the longer English originals that do not occur in the translations."""
    catalogued = entries(catalogue(language, "po"))
    translated = " ".join(form for forms in catalogued.values() for form in forms)
    originals = [
        ids[0]
        for ids in catalogued
        # Words that also exist in the other language, or that are short enough to be part of a
        # word, are left out.
        if len(ids[0]) > 8 and "%" not in ids[0] and ids[0] not in translated
    ]
    assert len(originals) > 60
    return originals


# The technical names of statuses, settings and commands.
PROGRAMS_WORDS = re.compile(rf"\b({'|'.join(Status)})\b|GIFTCARDS|manage\.py|[A-Z]+_[A-Z]+|HTTP")


@pytest.mark.parametrize("language", ["en", *LANGUAGES])
def test_a_page_shows_no_english_text_in_another_language_nor_a_programs_word_in_any(
    order: Order, language: str
) -> None:
    """Technical words appear only in the part "For your developer"."""
    pages = pages_of_a_shop_in_trouble(language)
    if language != "en":
        english = english_texts_without(language)
        shown = [text(page) for page in pages]
        assert [original for original in english for page in shown if original in page] == []
    hints = re.compile(r'<details class="giftcards-developer">.*?</details>', re.DOTALL)
    for page in pages:
        page_without = hints.sub("", page)
        told = re.findall(r'(?:title|aria-label|placeholder)="([^"]*)"', page_without)
        assert PROGRAMS_WORDS.findall(" ".join([text(page_without), *told])) == []
    seen = " ".join(text(hint) for page in pages for hint in hints.findall(page))
    for word in ("PARTIALLY_FILLED", "HANDLING", "giftcards_poll --resume", "qcluster"):
        assert word in seen


@pytest.mark.parametrize(
    ("language", "count", "message"),
    [
        ("fr", 1, "1 commande sera vérifiée dans un instant."),
        ("fr", 2, "2 commandes seront vérifiées dans un instant."),
        ("ar", 1, "سيجري التحقق من طلب واحد بعد لحظات."),
        ("ar", 2, "سيجري التحقق من طلبين بعد لحظات."),
        ("ar", 3, "سيجري التحقق من 3 طلبات بعد لحظات."),
        ("ar", 11, "سيجري التحقق من 11 طلبًا بعد لحظات."),
        ("ar", 100, "سيجري التحقق من 100 طلب بعد لحظات."),
    ],
)
def test_messages_with_a_number_use_the_right_plural_form(
    db: None, language: str, count: int, message: str
) -> None:
    chosen = [make_guide_order().pk for _ in range(count)]
    browser = sign_in(superuser=True, headers={"accept-language": language})
    answer = browser.post(
        LIST,
        {"action": "check_now", "_selected_action": chosen[:50], "select_across": "1"},
        follow=True,
    )
    assert messages(read(answer)) == [message]


@pytest.mark.parametrize("language", ["fr", "ar"])
def test_the_complaint_about_a_taken_reference_is_translated(order: Order, language: str) -> None:
    browser = sign_in(superuser=True, headers={"accept-language": language})
    line = {"product_id": PRODUCT, "type_id": TYPE, "quantity": "4", "reference": "web-1042"}
    english = "This reference is already in use. Use a different reference for a new order."
    with translation.override(language):
        complaint = translation.gettext(english)
    assert complaint != english
    assert errors(read(browser.post(ADD, line))) == [complaint]


def test_a_regional_language_gets_the_translation_of_its_language(settings: Any) -> None:
    settings.LANGUAGES = [("ar-dz", "Algerian Arabic"), ("fr-ca", "Canadian French")]
    for language, label in (("ar-dz", "مُسلَّم"), ("fr-ca", "Livrée")):
        with translation.override(language):
            assert str(Status.FULFILLED.label) == label


@pytest.mark.django_db
def test_the_command_that_ends_a_pause_is_left_untranslated() -> None:
    refuse_key()
    state = ProviderState.objects.current()
    for language in ("en", *LANGUAGES):
        with translation.override(language):
            assert "`manage.py giftcards_poll --resume`" in state.explain()


@pytest.mark.django_db
def test_errors_about_values_that_cannot_be_ordered_are_translated() -> None:
    with translation.override("fr"), pytest.raises(Exception, match="nombre entier"):
        place_order(product_id=PRODUCT, type_id=TYPE, quantity="2")  # type: ignore[arg-type]
