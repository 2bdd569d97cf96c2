"""Words that carry the particulars of a problem: numbers, units, signs, and words with an opposite. English."""

from __future__ import annotations


def _table(rows: str) -> dict[str, str]:
    """Word to value, from one row a value: itself, then the words that mean the same."""
    return {word: words[0] for row in rows.strip().splitlines() for words in [row.split()] for word in words}


NUMBER_WORDS = _table("""
0 zero
2 two twice double
3 three thrice triple
4 four
5 five
6 six
7 seven
8 eight
9 nine
10 ten
11 eleven
12 twelve dozen
13 thirteen
14 fourteen
15 fifteen
16 sixteen
17 seventeen
18 eighteen
19 nineteen
20 twenty
30 thirty
40 forty
50 fifty
60 sixty
70 seventy
80 eighty
90 ninety
100 hundred
1000 thousand
1000000 million
0.5 half
0.25 quarter
""")
"""Without "one", which is a pronoun more often than a number."""

SIGN_WORDS = _table("""
+ plus
- minus
* times multiplied
/ divided
% percent
^ power
""")
"""They count beside a number or a variable."""

UNITS = _table("""
mm millimeter millimetre
cm centimeter centimetre
m meter metre
km kilometer kilometre
inch inches
ft foot feet
yard
mile mi
mg milligram
g gram
kg kilogram kilo
ton tonne
lb lbs pound
oz ounce
ml milliliter millilitre
l liter litre
gallon
second sec s
minute min
hour h hr
day
week
month
year
decade
century centuries
ms millisecond
us microsecond
degree deg
celsius
fahrenheit
kelvin
radian rad
dollar usd
euro eur
cent
penny pence
yen
byte
bit
kb
mb
gb
tb
kib
mib
gib
hz
khz
mhz
ghz
w watt
kw kilowatt
v volt
mph
kph kmh
joule
kj
calorie cal
kcal
acre
hectare
""")

TURNS = _table("""
not no never neither nor none cannot nobody nothing nowhere
without
except exclude excluding excepting
unless
include including
more greater larger bigger higher exceed above over
less fewer smaller lower below under
max maximum maximal maximise maximize most largest greatest biggest highest
min minimum minimal minimise minimize least smallest lowest fewest
longer
shorter
longest
shortest
older
younger
oldest
youngest
taller
tallest
faster quicker
slower
fastest
slowest
heavier
lighter
best
worst
better
worse
before earlier prior precede
after later succeeding
first earliest initial
last latest final
second
third
next
previous
increase increasing grow rise gain
decrease decreasing shrink fall drop lose reduce
ascending
descending
up upward upwards
down downward downwards
left
right
north
south
east
west
even
odd
positive
negative
true
false
equal
unequal
inside within
outside
forward forwards
backward backwards
clockwise
counterclockwise anticlockwise
encode encrypt
decode decrypt
keep retain
remove delete discard
add addition sum total
subtract subtraction difference
multiply multiplication product
divide division quotient
remainder modulo mod
average mean
median
mode
row
column
horizontal
vertical
prefix
suffix
open
close
buy bought
sell sold
vowel
consonant
uppercase capital
lowercase
gcd gcf hcf divisor
lcm multiple
only solely
always
prime
composite
different distinct unique
import
export
enable
disable
allow
deny forbid
success
failure
""")
"""Negations, and words whose opposite would make another problem."""

SYNONYMS = _table("""
number numbers integer integers value values figure figures
list lists sequence series
result results solution outcome
word words term terms
letter letters character characters
text string sentence phrase
arrange sort order sorted ordered
count counting tally
expression formula
big large
small little
begin begins began start starts started
finish finishes finished end ends ended
however but though
therefore hence thus
error failure fault
file document
create make build
picture image
kid kids child children
""")
"""Plain words that may stand for one another in a request."""

ASKING = frozenset(
    word
    for row in """
a an the this that these those here there it i you we he she they my our your his her its
what which who whom whose how when where why if is are was were do does did
can could would will shall should may might must please kindly hello hi hey thanks thank
find calculate compute determine solve evaluate work state give tell show answer say simplify write report return
provide output look think let now so then given consider suppose assume quick help need want figure exactly
response reply final just kindly carefully quickly soon advance appreciate grateful wondering know like get got lot
possible
me us be been being have has had having following below above
in on at of for by with from to and or but as question problem task note
""".splitlines()
    for word in row.split()
)
"""Words that begin a request whatever it is about."""

OPERATORS = frozenset({*"+-*/^%<>=()[]{}|&~!$€£#@\\", "**", "<=", ">=", "!=", "=="})
