"""Words as the rule compares them: what each stands for and how it counts.

A word's key is what it is compared by: the value of a number ("1,000", "two"
and "1.5 million" are numbers) or the stem of a word.  Everything here is a
list or a rule of a few lines; nothing is learned.
"""

import dataclasses
import re
import unicodedata
from collections.abc import Iterator, Sequence

_WORD = re.compile(
  r"(?:[A-Za-z]\.){2,}"  # U.S.
  r"|\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?(?:(?:st|nd|rd|th|s)\b)?"
  r"|[^\W\d_]+(?:['’][^\W\d_]+)*"
  r"|%"
)
_YES = re.compile(r"^\W*(?:No|Yes), ")
_STATES = re.compile(r"\bUnited (S)tates(?: of America)?|\bUnited (K)ingdom")
_SUFFIX = re.compile(
  r"(?<=....)(?:ations?|ments?|ness|ers?|ors?)$"
  r"|(?<=...)(?:ings?|ies|ied|ed|es|ly|s|y|e)$"
)
_DOUBLED = re.compile(r"([bdfgklmnprstz])\1$")

STOP = frozenset(
  "a about across after against all along also although am amid among an and"
  " another any are around as at be because been before behind being beside"
  " besides between beyond both but by can could d did do does doing done down"
  " during each either else even ever every for from had has have having he"
  " hence her here hers herself him himself his how however i if in into is it"
  " its itself just let ll m may me might mine must my myself of off on only"
  " onto or other others ought our ours out over own per re s same shall she"
  " should since so some such t than that the their theirs them themselves then"
  " there therefore these they this those though through thus title to too"
  " toward towards under until up upon us ve very via was we were what when"
  " where whether which while who whom whose why will with within would you"
  " your yours".split()
)
# So frequent in every kind of text that their absence says little.
COMMON = frozenset(
  "able according add added announce announced based became become began begin"
  " begun call called came case certain come currently day describe described"
  " different due early example fact find first follow followed following found"
  " gave general generally get give given go good got great group help high"
  " important include included includes including keep kept know known large"
  " last later least led less like long low made main make making man many mean"
  " more most much name named need new note noted now number often old part"
  " people person place point provide provided recent recently report reported"
  " said saw say says second see set several show shown small start started"
  " state stated still take taken term thing time today took two use used using"
  " usually various want way well went work year years".split()
)
_NEGATION = frozenset(
  "barely cannot hardly incorrect false neither never no nobody none nor not"
  " nothing nowhere n't scarcely unable untrue without fail fails failed"
  " failing lack lacks lacked".split()
)
_PLAIN_NO = frozenset("cannot never no nobody none not nothing n't".split())
_ARTICLES = frozenset("a an the".split())
# "not until 1998" and the like affirm what follows.
_AFFIRMED = frozenset("until only just least merely solely doubt".split())

_ONES = (
  "zero one two three four five six seven eight nine ten eleven twelve thirteen"
  " fourteen fifteen sixteen seventeen eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_ORDINALS = (
  "zeroth first second third fourth fifth sixth seventh eighth ninth tenth"
  " eleventh twelfth thirteenth fourteenth fifteenth sixteenth seventeenth"
  " eighteenth nineteenth twentieth"
).split()
NUMBERS = (
  {word: i for i, word in enumerate(_ONES)}
  | {word: 20 + 10 * i for i, word in enumerate(_TENS)}
  | {word: i for i, word in enumerate(_ORDINALS)}
  | {"dozen": 12, "twice": 2}
)
SCALES = {
  "hundred": 10**2,
  "thousand": 10**3,
  "million": 10**6,
  "billion": 10**9,
  "trillion": 10**12,
}
# More often a pronoun, an order or a unit of time than a quantity.
_LOOSE = frozenset("one first second".split())

MONTHS = (
  "january february march april may june july august september october november"
  " december"
).split()
_MONTHS = {
  form: month for month in MONTHS for form in (month, month[:3], month[:4])
}

_IRREGULAR = {
  form: forms.split()[0]
  for forms in (
    "become became;begin began begun;break broke broken;bring brought;build"
    " built;buy bought;catch caught;choose chose chosen;come came;cut;die death"
    " dead died;do done;draw drew drawn;drive drove driven;fall fell fallen;feel"
    " felt;fight fought;find found;fly flew flown;forget forgot;get got gotten;"
    "give gave given;go went gone;grow grew grown;hear heard;hold held;keep"
    " kept;know knew known;lead led;leave left;lose lost loss;make made;mean"
    " meant;meet met;pay paid;rise rose risen;run ran;say said;see saw seen;sell"
    " sold;send sent;show shown;sing sang sung;sink sank sunk;sit sat;speak"
    " spoke spoken;spend spent;stand stood;steal stole stolen;take took taken;"
    "teach taught;tell told;think thought;throw threw thrown;wear wore worn;win"
    " won;write wrote written;child children;foot feet;man men;woman women;life"
    " lives;wife wives;country countries;percent percentage"
  ).split(";")
  for form in forms.split()[1:]
}
_OPPOSITES = (
  "increase/decrease rise/fall more/less more/fewer high/low higher/lower"
  " highest/lowest above/below before/after first/last north/south east/west"
  " northern/southern eastern/western male/female man/woman boy/girl"
  " father/mother son/daughter brother/sister husband/wife win/lose older/younger"
  " oldest/youngest old/new largest/smallest larger/smaller large/small big/small"
  " best/worst better/worse most/least maximum/minimum true/false"
  " possible/impossible likely/unlikely legal/illegal accept/reject"
  " success/failure always/never start/end begin/end open/close early/late"
  " earlier/later inside/outside left/right positive/negative warm/cool hot/cold"
  " alive/dead up/down gain/loss increase/reduce majority/minority known/unknown"
  " able/unable safe/dangerous strong/weak long/short longer/shorter heavy/light"
  " upper/lower urban/rural public/private internal/external major/minor"
).split()


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Word:
  """One word of a text."""

  key: str  # what it is compared by
  exact: str  # in lower case, without accents; the value of a number
  kind: str  # "stop", "common", "word", "name" or "number"
  denied: bool = False  # the first word that a negation before it concerns
  capital: bool = False  # begins with a capital
  first: bool = False  # opens its sentence, so that its capital says little


def stem(word: str) -> str:
  """A word without its endings: "announcement", "announced" -> "announc"."""
  word = _IRREGULAR.get(word, word)
  for _ in range(2):
    word = _SUFFIX.sub("", word)
  return _DOUBLED.sub(r"\1", word)


OPPOSITES: dict[str, frozenset[str]] = {}
for _pair in _OPPOSITES:
  for _one, _other in (_pair.split("/"), _pair.split("/")[::-1]):
    OPPOSITES[stem(_one)] = OPPOSITES.get(stem(_one), frozenset()) | {
      stem(_other)
    }


def read(sentence: str, opens: bool = True) -> tuple[Word, ...]:
  """The words of a sentence; articles and negations are left out.

  A negation marks what follows as denied, to the first word of content that is
  neither common nor an adverb.  "%" reads "percent"; a possessive 's is lost.

  Args:
    sentence: the text.
    opens: its first word may owe its capital to its place.
  """
  out: list[Word] = []
  denies = False
  raw = list(_split(_YES.sub("", sentence)))
  for place, (exact, capital) in enumerate(raw):
    if exact in _ARTICLES:
      continue
    if exact in _NEGATION and (not capital or exact in _PLAIN_NO):
      after = raw[place + 1][0] if place + 1 < len(raw) else ""
      # "No. 1" denies nothing; "not unable" neither.
      counted = exact == "no" and after[:1].isdecimal()
      denies = not (denies or counted or after in _AFFIRMED)
      continue
    if denies and exact in ("longer", "more"):  # "no longer"
      continue
    word = _word(exact, capital, opens and place == 0)
    if denies and word.kind != "stop":
      word = dataclasses.replace(word, denied=True)
      denies = word.kind == "common" or exact.endswith("ly")
    out.append(word)
  return tuple(_merge(out))


def _split(sentence: str) -> Iterator[tuple[str, bool]]:
  """Each word in lower case, and whether it had a capital."""
  if not sentence.isascii():
    sentence = unicodedata.normalize("NFKD", sentence)
    sentence = "".join(c for c in sentence if not unicodedata.combining(c))
  sentence = _STATES.sub(r"U.\1\2.", sentence)
  for found in _WORD.findall(sentence):
    lower = found.lower().replace("’", "'")
    capital = found[0].isupper()
    if lower == "%":
      yield "percent", False
    elif lower.endswith("n't"):
      yield {"ca": "can", "wo": "will", "sha": "shall"}.get(
        lower[:-3], lower[:-3]
      ), capital
      yield "n't", False
    elif found[0].isdecimal():
      yield lower, False
    else:
      lower = lower.replace(".", "")
      yield lower.removesuffix("'s").split("'")[-1] or lower, capital


def _word(exact: str, capital: bool, first: bool) -> Word:
  key, kind = stem(exact), "word"
  if exact[0].isdecimal():
    key = exact = number(exact)
    kind = "number"
  elif exact in NUMBERS and (first or not capital):
    kind = "common" if exact in _LOOSE else "number"
    key = exact = str(NUMBERS[exact])
  elif exact in _MONTHS and capital and not (first and exact == "may"):
    key = exact = _MONTHS[exact]
    kind = "name"
  elif exact in STOP and not (exact == "us" and capital):
    key, kind = exact, "stop"
  elif exact in COMMON and (first or not capital):
    kind = "common"
  elif capital and not first:
    kind = "name"
  return Word(key=key, exact=exact, kind=kind, capital=capital, first=first)


def number(digits: str) -> str:
  """A number in one form: "1,000" -> "1000", "2.50" -> "2.5", "3rd" -> "3"."""
  digits = digits.replace(",", "").rstrip("tndrh")
  if "." in digits:
    digits = digits.rstrip("0").rstrip(".")
  return digits.lstrip("0") or "0"


def _merge(words: Sequence[Word]) -> Iterator[Word]:
  """Joins "twenty two" to 22 and "1.5 million" to 1500000."""
  held: Word | None = None
  for word in words:
    joined = held and _joined(held, word)
    if joined:
      held = dataclasses.replace(held, key=joined, exact=joined, kind="number")
      continue
    if held:
      yield held
    held = word
  if held:
    yield held


def _joined(held: Word, word: Word) -> str | None:
  if not held.exact[0].isdecimal():
    return None
  if word.exact in SCALES:
    value = float(held.exact) * SCALES[word.exact]
    return number(f"{value:.3f}") if value < 10**18 else None
  tens, ones = held.exact, word.exact
  small = word.kind in ("number", "common") and ones in "123456789"
  if small and tens in ("20", "30", "40", "50", "60", "70", "80", "90"):
    return str(int(tens) + int(ones))
  return None
