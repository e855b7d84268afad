"""What gives the form of a refusal away: opening phrase, wording, and what is cited as the reason."""

from __future__ import annotations

from wmcheck.fingerprint.decisions.label_rules import Pattern, any_of

Classes = tuple[tuple[str, Pattern], ...]


def first(classes: Classes, text: str) -> str:
    """Name of the first class whose pattern is found, or ``other``."""
    return next((name for name, pattern in classes if pattern.search(text)), "other")


CITES = {
    "rules": any_of(
        r"\b(?:guidelines?|polic(?:y|ies)|my (?:programming|rules|principles|values|training)|terms of (?:use|service)|"
        r"programmed)\b",
        r"\b(?:designed to|content standards)\b|准则|政策|规定|原则|使用条款|\bohje(?:et|ita|itani|iden)\b",
        r"\b(?:directives|richtlinien|правил\w*|políticas|directrices)\b",
    ),
    "model": any_of(
        r"\b(?:as|i'm|i am|being)(?: just| only)? an? (?:\w+ ){0,3}(?:ai|artificial intelligence|language model|assistant|"
        r"chatbot|bot)\b",
        r"作为(?:一个|一名)?(?:ai|人工智能|语言模型|助手|大模型)|\btekoäly\w*|\bintelligence artificielle\b|"
        r"\binteligencia artificial\b",
        r"\b(?:ki|ki-\w+|künstliche intelligenz)\b|искусственн\w+ интеллект|\bязыков\w+ модел\w*",
    ),
    "safety": any_of(
        r"\b(?:harm\w*|danger\w*|unsafe|safety|violen\w+|hate\w*|unethical|ethic\w*|inappropriate|offensive|disrespect\w*)\b",
        r"\b(?:stereotyp\w*|discriminat\w*|sensitive|privacy|private)\b|有害|危险|安全|不当|冒犯|敏感|隐私|尊重",
        r"\b(?:haita\w*|vahingol\w*|vaara\w*|loukka\w*|yksityisy\w*|arkaluont\w*|dangereu\w+|nuisib\w+|haineu\w+)\b",
        r"\b(?:gefährlich\w*|schädlich\w*|опасн\w+|вредн\w+|peligros\w+|dañin\w+)\b",
    ),
    "law": any_of(
        r"\b(?:illegal|unlawful|laws?|legal|copyright\w*|licen[cs]e\w*|crime|criminal|regulations?)\b|法律|法规|违法|版权",
        r"\b(?:laiton\w*|laki\w*|lain|tekijänoikeu\w*|illégal\w*|loi|droit d'auteur|gesetz\w*|urheberrecht\w*)\b",
        r"\b(?:закон\w*|незаконн\w+|ley(?:es)?|ilegal\w*)\b",
    ),
}

OPENINGS: Classes = (
    ("apology", any_of(
        r"^(?:i'm|i am|we're)?\W*(?:\w+ ){0,2}(?:sorry|apologi[sz]e|apologies|regret)|^(?:很|非常|真的)?(?:抱歉|对不起|"
        r"不好意思|遗憾)",
        r"^(?:olen )?(?:pahoillani|valitettavasti|anteeksi)|^(?:je suis )?(?:désolée?|malheureusement)",
        r"^(?:es )?(?:tut mir|leider|entschuldigung)|^(?:извините|простите|к сожалению|сожалею)|^(?:lo siento|lamento|"
        r"lamentablemente)",
    )),
    ("as_model", any_of(
        r"^(?:as|i'm|i am) (?:just )?an? (?:\w+ ){0,3}(?:ai|language model|assistant|chatbot)|^作为|^(?:koska olen )?tekoäly|"
        r"^en tant qu",
        r"^als (?:ki|sprach)|^(?:я|как)\b.{0,12}(?:модель|ии|искусств)|^como (?:ia|modelo|asistente|inteligencia)",
    )),
    ("understand", any_of(
        r"^i (?:\w+ )?(?:understand|appreciate|see|hear|reali[sz]e|get|know)|^(?:thank|thanks)|^我(?:理解|明白|知道)|^感谢|"
        r"^(?:ymmärrän|kiitos)",
        r"^je comprends|^merci|^ich verstehe|^danke|^(?:я )?понимаю|^спасибо|^(?:entiendo|comprendo|gracias)",
    )),
    ("unable", any_of(
        r"^(?:unfortunately,? )?i(?:'m| am)? ?(?:\w+ )?(?:can't|cannot|can not|won't|will not|unable|not able|don't|do not|"
        r"not)\b",
        r"^i(?:'ll| will)? (?:must|have to|need to)? ?decline|^我(?:不|无法|没有)|^en (?:voi|pysty|saa)|^minulla ei|^je ne",
        r"^ich (?:kann|darf|werde)|^я не|^no (?:puedo|me)",
    )),
    ("no", any_of(r"^(?:no|nope|nein|non|нет|ei)\b[,.!]")),
    ("norm", any_of(r"^(?:it's|it is|this is|that's|there (?:is|are)|the (?:question|idea|request))\b")),
)

WORDINGS: Classes = (
    ("can't", any_of(r"\bi can't\b")),
    ("cannot", any_of(r"\bi (?:cannot|can not)\b")),
    ("won't", any_of(r"\bi(?:'m| am)? (?:won't|will not|not going to|not willing to)\b")),
    ("unable", any_of(r"\bi(?:'m| am) (?:\w+ )?(?:unable|not (?:\w+ )?able)\b")),
    ("decline", any_of(r"\b(?:decline|refuse|refrain|pass on)\b")),
    ("comfort", any_of(r"\bcomfortable\b|\b(?:rather|prefer) not\b")),
    ("don't", any_of(r"\bi (?:don't|do not)\b")),
    ("norm", any_of(r"\b(?:not|isn't|wouldn't be) (?:appropriate|ethical)\b|\b(?:inappropriate|unethical)\b")),
    ("cannot-zh", any_of(r"不能")),
    ("unable-zh", any_of(r"无法")),
    ("won't-zh", any_of(r"不会|不便|拒绝")),
    ("cannot-fi", any_of(r"\b(?:en|emme)\b.{0,20}\b(?:voi|pysty|saa)\b")),
)
