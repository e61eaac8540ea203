"""Brands of gift cards, with their Arabic spellings.

People might write a brand in Arabic letters, but catalogues use the Latin name.
"""

from __future__ import annotations

from collections.abc import Iterator

from giftcards.text.spelling import folded, respelled, without_article

_ARABIC = {
    "amazon": "أمازون",
    "apple": "أبل آبل",
    "binance": "بينانس باينانس",
    "blizzard": "بليزارد",
    "discord": "ديسكورد",
    "fortnite": "فورتنايت",
    "free fire": "فريفاير",
    "google": "جوجل غوغل قوقل",
    "itunes": "آيتونز",
    "league of legends": "ليجاوفليجندز",
    "mastercard": "ماستركارد",
    "minecraft": "ماينكرافت",
    "netflix": "نتفليكس نيتفليكس نتفلكس",
    "nintendo": "نينتندو",
    "play": "بلاي",
    "playstation": "بلايستيشن بلاستيشن",
    "pubg": "ببجي بوبجي",
    "razer": "ريزر رايزر",
    "riot": "ريوت رايوت",
    "roblox": "روبلوكس روبلكس",
    "shein": "شيإن",
    "spotify": "سبوتيفاي",
    "steam": "ستيم",
    "tiktok": "تيكتوك",
    "twitch": "تويتش",
    "valorant": "فالورانت",
    "visa": "فيزا",
    "xbox": "إكسبوكس",
    "youtube": "يوتيوب",
}
_BRANDS = {
    respelled(spelling): brand
    for brand, spellings in _ARABIC.items()
    for spelling in spellings.split()
}
# The maximum number of typed words that together can form a brand name in Arabic.
_LONGEST = 3
# Words that say only that a product is a gift card.
_EVERY_CARD = {"card", "cards", "carte", "cartes", "gift", "cadeau", "cadeaux"} | {
    respelled(word) for word in ("بطاقة", "بطاقات", "هدية", "هدايا")
}


def words_of_product(text: str) -> list[tuple[str, ...]]:
    """Return the words of ``text`` that can occur in a product name.

    Each word is a tuple of spellings. For a brand in Arabic letters, the Latin name is added. For
    example, بطاقة بلاي ستيشن 500 becomes ("بلاي ستيشن", "playstation"), ("500",). Words such as
    "card" are left out, unless there is no other word.
    """
    typed = folded(text).split()
    telling = [word for word in typed if without_article(respelled(word)) not in _EVERY_CARD]
    return list(_with_brands(telling or typed))


def _with_brands(typed: list[str]) -> Iterator[tuple[str, ...]]:
    place = 0
    while place < len(typed):
        for end in range(min(place + _LONGEST, len(typed)), place, -1):
            together = respelled("".join(typed[place:end]))
            brand = _BRANDS.get(together) or _BRANDS.get(without_article(together))
            if brand or end == place + 1:
                yield tuple(filter(None, (" ".join(typed[place:end]), brand)))
                place = end
                break
