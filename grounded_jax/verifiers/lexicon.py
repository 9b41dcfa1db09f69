"""Lists of English words that the rule by words knows."""

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
# Between a negation and what it denies, beside adverbs in -ly.
PASSED = frozenset("ever later long longer more once still yet".split())
NEGATION = frozenset(
  "barely cannot hardly incorrect false neither never no nobody none nor not"
  " nothing nowhere n't scarcely unable untrue without fail fails failed"
  " failing lack lacks lacked".split()
)
PLAIN_NO = frozenset("cannot never no nobody none not nothing n't".split())
SHORTENED = {"ca": "can", "wo": "will", "sha": "shall"}
ARTICLES = frozenset("a an the".split())
# "not until 1998" and the like affirm what follows.
AFFIRMED = frozenset("until only just least merely solely doubt".split())

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
LOOSE = frozenset("one first second".split())

MONTHS = (
  "january february march april may june july august september october november"
  " december"
).split()
MONTH = {
  form: month for month in MONTHS for form in (month, month[:3], month[:4])
}

# The forms of a word that no ending makes; words between commas are one.
_FORMS = (
  "become became, begin began begun, break broke broken, bring brought, build"
  " built, buy bought, catch caught, choose chose chosen, come came, cut, die"
  " death dead died, do done, draw drew drawn, drive drove driven, fall fell"
  " fallen, feel felt, fight fought, find found, fly flew flown, forget forgot,"
  " get got gotten, give gave given, go went gone, grow grew grown, hear heard,"
  " hold held, keep kept, know knew known, lead led, leave left, lose lost"
  " loss, make made, mean meant, meet met, pay paid, rise rose risen, run ran,"
  " say said, see saw seen, sell sold, send sent, show shown, sing sang sung,"
  " sink sank sunk, sit sat, speak spoke spoken, spend spent, stand stood,"
  " steal stole stolen, take took taken, teach taught, tell told, think"
  " thought, throw threw thrown, wear wore worn, win won, write wrote written,"
  " child children, foot feet, man men, woman women, life lives, wife wives,"
  " country countries, percent percentage"
)
IRREGULAR = {
  form: forms.split()[0]
  for forms in _FORMS.split(",")
  for form in forms.split()[1:]
}
_OPPOSITES = (
  "increase/decrease rise/fall more/less more/fewer high/low higher/lower"
  " highest/lowest above/below before/after first/last north/south east/west"
  " northern/southern eastern/western male/female man/woman boy/girl"
  " father/mother son/daughter brother/sister husband/wife win/lose"
  " older/younger oldest/youngest old/new largest/smallest larger/smaller"
  " large/small big/small best/worst better/worse most/least maximum/minimum"
  " true/false possible/impossible likely/unlikely legal/illegal accept/reject"
  " success/failure always/never start/end begin/end open/close early/late"
  " earlier/later inside/outside left/right positive/negative warm/cool"
  " hot/cold alive/dead up/down gain/loss increase/reduce majority/minority"
  " known/unknown able/unable safe/dangerous strong/weak long/short"
  " longer/shorter heavy/light upper/lower urban/rural public/private"
  " internal/external major/minor"
).split()


OPPOSITES = {
  word: frozenset(
    other
    for pair in _OPPOSITES
    for one, other in (pair.split("/"), pair.split("/")[::-1])
    if one == word
  )
  for word in " ".join(_OPPOSITES).replace("/", " ").split()
}
