"""Languages: what clients and models call them, and the one code that stands for each here.

A code is ISO 639-1 where there is one, else ISO 639-3. ``language_of`` is for input
of clients, at the edge of every protocol; ``code_of`` for a model's files and its output.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable
from types import MappingProxyType

from voxlive.errors import CodedError

# A line per language: its code; ISO 639-2 (T, then B), members of macrolanguages that models name,
# withdrawn codes; then English names, of which the first is used where a model takes a name.
_TABLE = """
aa aar: afar
ab abk: abkhazian
ae ave: avestan
af afr: afrikaans
ak aka: akan
am amh: amharic
an arg: aragonese
ar ara arb: arabic
as asm: assamese
ast: asturian
av ava: avar, avaric
ay aym: aymara
az aze azj: azerbaijani
ba bak: bashkir
be bel: belarusian
bg bul: bulgarian
bi bis: bislama
bm bam: bambara
bn ben: bengali, bangla
bo bod tib: tibetan
br bre: breton
bs bos: bosnian
ca cat: catalan, valencian
ce che: chechen
ceb: cebuano
ch cha: chamorro
ckb: central kurdish, sorani
co cos: corsican
cr cre: cree
cs ces cze: czech
cu chu: church slavonic, church slavic
cv chv: chuvash
cy cym wel: welsh
da dan: danish
de deu ger: german
dv div: dhivehi, divehi, maldivian
dz dzo: dzongkha
ee ewe: ewe
el ell gre: greek, modern greek
en eng: english, american english, british english
eo epo: esperanto
es spa: spanish, castilian
et est ekk: estonian
eu eus baq: basque
fa fas per pes prs: persian, farsi, dari
ff ful: fula, fulah
fi fin: finnish
fil: filipino, pilipino
fj fij: fijian
fo fao: faroese
fr fra fre: french
fy fry: western frisian, frisian
ga gle: irish, gaelic
gan: gan chinese
gd gla: scottish gaelic
gl glg: galician
gn grn: guarani
gu guj: gujarati
gv glv: manx
ha hau: hausa
hak: hakka chinese, hakka
haw: hawaiian
he heb iw: hebrew
hi hin: hindi
ho hmo: hiri motu
hr hrv: croatian
hsn: xiang chinese
ht hat: haitian creole, haitian
hu hun: hungarian
hy hye arm: armenian
hz her: herero
ia ina: interlingua
id ind in: indonesian
ie ile: interlingue
ig ibo: igbo
ii iii: nuosu, sichuan yi
ik ipk: inupiaq
io ido: ido
is isl ice: icelandic
it ita: italian
iu iku: inuktitut
ja jpn: japanese
jv jav jw: javanese
ka kat geo: georgian
kam: kamba
kea: kabuverdianu
kg kon: kongo
ki kik: kikuyu, gikuyu
kj kua: kuanyama
kk kaz: kazakh
kl kal: greenlandic, kalaallisut
km khm: khmer
kn kan: kannada
ko kor: korean
kr kau: kanuri
ks kas: kashmiri
ku kur kmr: kurdish, kurmanji
kv kom: komi
kw cor: cornish
ky kir: kyrgyz, kirghiz
la lat: latin
lb ltz: luxembourgish, letzeburgesch
lg lug: luganda, ganda
li lim: limburgish, limburgan
ln lin: lingala
lo lao: lao
lt lit: lithuanian
lu lub: luba-katanga
luo: luo
lv lav lvs: latvian
mg mlg plt: malagasy
mh mah: marshallese
mi mri mao: maori
mk mkd mac: macedonian
ml mal: malayalam
mn mon khk: mongolian
mr mar: marathi
ms msa may zsm: malay
mt mlt: maltese
my mya bur: burmese, myanmar
na nau: nauruan, nauru
nan: min nan chinese, hokkien, taiwanese
nd nde: north ndebele
ne nep npi: nepali
ng ndo: ndonga
nl nld dut: dutch, flemish
nn nno: norwegian nynorsk, nynorsk
no nor nb nob: norwegian, norwegian bokmal, bokmal
nr nbl: south ndebele
nso: northern sotho, sepedi
nv nav: navajo
ny nya: chichewa, nyanja
oc oci: occitan
oj oji: ojibwa
om orm gaz: oromo
or ori ory: odia, oriya
os oss: ossetian
pa pan: punjabi, panjabi
pi pli: pali
pl pol: polish
ps pus pbt: pashto, pushto
pt por: portuguese, brazilian portuguese
qu que: quechua
rm roh: romansh
rn run: kirundi, rundi
ro ron rum mo: romanian, moldavian, moldovan
ru rus: russian
rw kin: kinyarwanda
sa san: sanskrit
sc srd: sardinian
sd snd: sindhi
se sme: northern sami
sg sag: sango
sh hbs: serbo-croatian
si sin: sinhala, sinhalese
sk slk slo: slovak
sl slv: slovenian
sm smo: samoan
sn sna: shona
so som: somali
sq sqi alb als: albanian
sr srp: serbian
ss ssw: swati
st sot: sesotho, southern sotho
su sun: sundanese
sv swe: swedish
sw swa swh: swahili
ta tam: tamil
te tel: telugu
tg tgk: tajik
th tha: thai
ti tir: tigrinya
tk tuk: turkmen
tl tgl: tagalog
tn tsn: tswana
to ton: tongan, tonga
tr tur: turkish
ts tso: tsonga
tt tat: tatar
tw twi: twi
ty tah: tahitian
ug uig: uyghur, uighur
uk ukr: ukrainian
umb: umbundu
ur urd: urdu
uz uzb uzn: uzbek
ve ven: venda
vi vie: vietnamese
vo vol: volapuk
wa wln: walloon
wo wol: wolof
wuu: wu chinese, shanghainese
xh xho: xhosa
yi yid ydd ji: yiddish
yo yor: yoruba
yue zh-yue: cantonese, yue chinese, canton
za zha: zhuang
zh zho chi cmn: chinese, mandarin, mandarin chinese, simplified chinese, traditional chinese
zu zul: zulu
"""
_NOT_GIVEN = ("", "auto", "und", "mul")
# What may follow a language in a locale: script, region, variants.
_SUBTAGS = re.compile(r"(-[a-z0-9]{1,8})+")
_ENCODING = re.compile(r"[.@].*")
_PARENTHESIS = re.compile(r"\([^()]*\)")
_LONGEST = 100
_SHOWN = 40


def _read() -> tuple[dict[str, str], dict[str, str]]:
    """Names by code, and codes by everything that a language is called."""
    names: dict[str, str] = {}
    codes: dict[str, str] = {}
    for line in _TABLE.split("\n")[1:-1]:
        called, _, titles = line.partition(": ")
        code, *others = called.split()
        title, *more = titles.split(", ")
        names[code] = title
        codes |= dict.fromkeys((code, *others, title, *more), code)
    return names, codes


_names, _CODES = _read()
NAMES = MappingProxyType(_names)
"""Every code with its English name in lower case."""


class UnknownLanguage(CodedError, ValueError):
    """The text is no language known here; the message names the accepted forms."""

    code = "bad_language"


def language_of(name: str | None) -> str | None:
    """The code of what a client calls a language; None: it is not given.

    It may be an ISO 639-1, 639-2 or (where models use it) 639-3 code, a locale such as ``en_US`` or
    ``zh-Hans``, or an English name, in any case and spacing. Nothing, ``auto`` and ISO 639's own
    ``und`` and ``mul`` are not given. Raises UnknownLanguage.
    """
    plain = _plain(name or "")
    if plain in _NOT_GIVEN:
        return None
    code = code_of(plain)
    if code is None:
        shown = repr((name or "")[:_SHOWN])
        raise UnknownLanguage(
            f"{shown} is no language known here: say a code such as en or eng, a locale such as "
            "en-US, an English name such as English, or auto",
            "language",
        )
    return code


def code_of(language: str) -> str | None:
    """The code of what a model calls a language, by the same rules; None if it is not known."""
    plain = _plain(language)
    named = " ".join(_PARENTHESIS.sub(" ", plain).split())
    for name in (plain, named, named.replace("-", " ")):
        if name in _CODES:
            return _CODES[name]
    tag = _ENCODING.sub("", named)
    known = tag
    while known and known not in _CODES:
        known = known.rpartition("-")[0]
    rest = tag[len(known) :]
    return _CODES[known] if known and (not rest or _SUBTAGS.fullmatch(rest)) else None


def codes_of(languages: Iterable[object]) -> tuple[str, ...]:
    """The codes of a config's list of codes or names, in its order, without the unknown ones."""
    return tuple(by_code(language for language in languages if isinstance(language, str)))


def by_code(languages: Iterable[str]) -> dict[str, str]:
    """What a model calls its languages, by their codes; of several for one code the first."""
    found: dict[str, str] = {}
    for language in languages:
        if code := code_of(language):
            found.setdefault(code, language)
    return found


def unknown_language_message(model: str, code: str, known: Collection[str]) -> str:
    """The message for a language that a model does not know, with those that it does."""
    name = NAMES.get(code)
    called = f"{name.title()} ({code})" if name else repr(code[:_SHOWN])
    return f"{model} does not know {called}: use {', '.join(sorted(known))}"


def _plain(name: str) -> str:
    """Lower case without accents; one space between words, a hyphen between subtags."""
    letters = unicodedata.normalize("NFKD", name[:_LONGEST])
    bare = "".join(char for char in letters if not unicodedata.combining(char))
    return " ".join(bare.lower().replace("_", "-").split())
