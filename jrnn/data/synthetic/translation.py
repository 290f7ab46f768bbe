"""English phrases and their French, by a grammar that derives both at once."""

from typing import NamedTuple

import numpy as np

from jrnn.data.synthetic.drawing import distinct, pick, seeded, with_articles


class Determiner(NamedTuple):
    """A determiner, singular and plural, and its French."""

    english: str
    plural: str
    masculine: str
    feminine: str
    pluriel: str


class Noun(NamedTuple):
    """A noun and its French."""

    english: str
    plural: str
    french: str
    pluriel: str
    gender: str  # m or f


class Adjective(NamedTuple):
    """An adjective and its French forms: form 1 + 2 · plural + feminine."""

    english: str
    masculine: str
    feminine: str
    masculines: str
    feminines: str


class Verb(NamedTuple):
    """A verb in the present and its French, by person; a preposition "-" is none."""

    base: str
    third: str  # he, she
    preposition: str
    je: str
    il: str
    nous: str
    vous: str
    ils: str
    french_preposition: str


class Subject(NamedTuple):
    """Who acts, and with which forms of the verb."""

    english: list[str]
    french: list[str]
    person: str  # je, il, nous, vous or ils
    feminine: bool | None  # None: the English does not say


Pair = tuple[list[str], list[str]]

DETERMINERS = [
    Determiner(*line.split())
    for line in """\
the the le la les
a some un une des
this these ce cette ces
my my mon ma mes
his his son sa ses
her her son sa ses
our our notre notre nos""".splitlines()
]
THE = DETERMINERS[0]
PEOPLE = [
    Noun(*line.split())
    for line in """\
cat cats chat chats m
dog dogs chien chiens m
horse horses cheval chevaux m
bird birds oiseau oiseaux m
man men homme hommes m
woman women femme femmes f
boy boys garçon garçons m
girl girls fille filles f
brother brothers frère frères m
sister sisters sœur sœurs f
teacher teachers professeur professeurs m
neighbour neighbours voisin voisins m
uncle uncles oncle oncles m
aunt aunts tante tantes f
singer singers chanteuse chanteuses f
pupil pupils élève élèves m""".splitlines()
]
THINGS = [
    Noun(*line.split())
    for line in """\
book books livre livres m
car cars voiture voitures f
tree trees arbre arbres m
flower flowers fleur fleurs f
apple apples pomme pommes f
film films film films m
picture pictures image images f
story stories histoire histoires f
song songs chanson chansons f
bridge bridges pont ponts m
key keys clé clés f""".splitlines()
]
PLACES = [
    Noun(*line.split())
    for line in """\
house houses maison maisons f
garden gardens jardin jardins m
hotel hotels hôtel hôtels m
church churches église églises f
school schools école écoles f
market markets marché marchés m
castle castles château châteaux m
boat boats bateau bateaux m
island islands île îles f""".splitlines()
]
BEFORE = [
    Adjective(*line.split())
    for line in """\
small petit petite petits petites
big grand grande grands grandes
young jeune jeune jeunes jeunes
pretty joli jolie jolis jolies
beautiful beau belle beaux belles
new nouveau nouvelle nouveaux nouvelles
bad mauvais mauvaise mauvais mauvaises
old ancien ancienne anciens anciennes""".splitlines()
]
AFTER = [
    Adjective(*line.split())
    for line in """\
red rouge rouge rouges rouges
black noir noire noirs noires
white blanc blanche blancs blanches
green vert verte verts vertes
blue bleu bleue bleus bleues
strange étrange étrange étranges étranges
famous célèbre célèbre célèbres célèbres
heavy lourd lourde lourds lourdes
quiet tranquille tranquille tranquilles tranquilles
happy heureux heureuse heureux heureuses
tired fatigué fatiguée fatigués fatiguées
italian italien italienne italiens italiennes""".splitlines()
]
VERBS = [
    Verb(*line.split())
    for line in """\
see sees - vois voit voyons voyez voient -
love loves - aime aime aimons aimez aiment -
find finds - trouve trouve trouvons trouvez trouvent -
want wants - veux veut voulons voulez veulent -
buy buys - achète achète achetons achetez achètent -
draw draws - dessine dessine dessinons dessinez dessinent -
choose chooses - choisis choisit choisissons choisissez choisissent -
sell sells - vends vend vendons vendez vendent -
know knows - connais connaît connaissons connaissez connaissent -
listen listens to écoute écoute écoutons écoutez écoutent -
wait waits for attends attend attendons attendez attendent -
look looks for cherche cherche cherchons cherchez cherchent -
talk talks about parle parle parlons parlez parlent de
dream dreams of rêve rêve rêvons rêvez rêvent de
come comes from viens vient venons venez viennent de
think thinks about pense pense pensons pensez pensent à
go goes to vais va allons allez vont à
live lives in habite habite habitons habitez habitent dans""".splitlines()
]
WHERE = ("go", "come", "live")
PRONOUNS = [
    Subject(["i"], ["je"], "je", None),
    Subject(["you"], ["vous"], "vous", None),
    Subject(["he"], ["il"], "il", False),
    Subject(["she"], ["elle"], "il", True),
    Subject(["we"], ["nous"], "nous", None),
    Subject(["they"], ["ils"], "ils", False),
]
CLITICS = [("him", "le"), ("her", "la"), ("them", "les")]
ADVERBS = [
    ("", ""),
    ("", ""),
    ("today", "aujourd'hui"),
    ("now", "maintenant"),
    ("every day", "tous les jours"),
]

VOWELS = "aeiouhéèêâîôœ"  # no h here is aspirated
ELISIONS = {"le": "l'", "la": "l'", "je": "j'", "ne": "n'", "de": "d'"}
ELISIONS |= {"ce": "cet", "ma": "mon", "sa": "son", "beau": "bel", "nouveau": "nouvel"}
CONTRACTIONS = {("de", "le"): "du", ("de", "les"): "des", ("à", "le"): "au", ("à", "les"): "aux"}
CONTRACTIONS |= {("de", "des"): "de", ("de", "de"): "de"}


def phrases(count: int, seed: int) -> list[tuple[str, str]]:
    """English sentences and their French, derived together by a synchronous grammar.

        sentence = subject verb object adverb | subject is adjective,   denied or not
        noun phrase = determiner (adjective) noun (of noun phrase) ↦ determiner (adj.) noun (adj.) (de …)

    The French agrees in gender and number (une petite maison blanche), puts adjectives before or after
    the noun and pronouns before the verb (il les voit), denies around the verb (ne … pas, and then de for
    an indefinite object), contracts (du, des, au, aux) and elides (l', j', n', d', cet, mon amie, bel).
    "you" is vous, "they" is ils. An English sentence has one French; they are distinct, and there are
    millions. Copying the source is never right.

    Args:
      count: pairs.
      seed: of the draws.

    Returns:
      `(english, french)` of each sentence, lower case, tokens between spaces.

    >>> from jrnn.data.synthetic import phrases
    >>> phrases(count=2, seed=0)[0]
    ('some big brothers come from my pretty market every day',
     'de grands frères viennent de mon joli marché tous les jours')
    """
    random = seeded(seed)

    def draw() -> tuple[str, str]:
        english, french = _sentence(random)
        return " ".join(with_articles(english)), " ".join(_elided(_contracted(_elided(french))))

    return distinct(draw, count)


def _sentence(random: np.random.Generator) -> Pair:
    subject, denied = _subject(random), random.random() < 0.3
    if subject.feminine is not None and random.random() < 0.2:
        english, french = _being(random, subject, denied)
    else:
        english, french = _doing(random, subject.person, denied)
    return [*subject.english, *english], [*subject.french, *french]


def _subject(random: np.random.Generator) -> Subject:
    if random.random() < 0.5:
        return pick(random, PRONOUNS)
    noun, plural = pick(random, PEOPLE), random.random() < 0.4
    english, french = _noun_phrase(random, noun, plural, pick(random, DETERMINERS))
    return Subject(english, french, "ils" if plural else "il", noun.gender == "f")


def _being(random: np.random.Generator, subject: Subject, denied: bool) -> Pair:
    plural, adjective = subject.person == "ils", pick(random, AFTER)
    english = ["are" if plural else "is", *(["not"] if denied else []), adjective.english]
    form = adjective[1 + 2 * plural + bool(subject.feminine)]
    return english, [*_denied(["sont" if plural else "est"], denied), form]


def _doing(random: np.random.Generator, person: str, denied: bool) -> Pair:
    verb, third = pick(random, VERBS), person == "il"
    direct = verb.french_preposition == "-"
    if direct and random.random() < 0.15:
        pronoun, clitic = pick(random, CLITICS)
        given, before, after = [pronoun], [clitic], list[str]()
    else:
        nouns = PLACES if verb.base in WHERE else [*PEOPLE, *THINGS, *PLACES]
        given, after = _object(random, pick(random, nouns), denied=denied and direct)
        before, after = [], after if direct else [verb.french_preposition, *after]
    english = (
        ["does" if third else "do", "not", verb.base] if denied else [verb.third if third else verb.base]
    )
    if verb.preposition != "-":
        english.append(verb.preposition)
    when, moment = (adverb.split() for adverb in pick(random, ADVERBS))
    french = _denied([*before, getattr(verb, person)], denied)
    return [*english, *given, *when], [*french, *after, *moment]


def _object(random: np.random.Generator, noun: Noun, denied: bool) -> Pair:
    plural = random.random() < 0.4
    if random.random() < 0.85:
        return _noun_phrase(random, noun, plural, pick(random, DETERMINERS), denied)
    english, french = _noun_phrase(random, noun, plural, THE)
    owner, owner_french = _noun_phrase(
        random, pick(random, PEOPLE), random.random() < 0.4, pick(random, DETERMINERS)
    )
    return [*english, "of", *owner], [*french, "de", *owner_french]


def _noun_phrase(
    random: np.random.Generator, noun: Noun, plural: bool, determiner: Determiner, denied: bool = False
) -> Pair:
    feminine = noun.gender == "f"
    before = [pick(random, BEFORE)] if random.random() < 0.3 else []
    after = [pick(random, AFTER)] if random.random() < 0.3 and not before else []
    article = determiner.plural if plural else determiner.english
    determinant = determiner.pluriel if plural else determiner.feminine if feminine else determiner.masculine
    if determiner.english == "a" and (denied or (plural and before)):  # pas de chat, de petits chats
        determinant = "de"
    if determiner.english == "a" and denied and plural:
        article = "any"
    form = 1 + 2 * plural + feminine
    english = [article, *(a.english for a in (*before, *after)), noun.plural if plural else noun.english]
    french = [determinant, *(a[form] for a in before), noun.pluriel if plural else noun.french]
    return english, [*french, *(a[form] for a in after)]


def _denied(french: list[str], denied: bool) -> list[str]:
    return ["ne", *french, "pas"] if denied else french


def _elided(words: list[str]) -> list[str]:
    following = [*words[1:], "."]
    return [
        ELISIONS.get(word, word) if after[0] in VOWELS else word
        for word, after in zip(words, following, strict=True)
    ]


def _contracted(words: list[str]) -> list[str]:
    contracted = words[:1]
    for word in words[1:]:
        if (contracted[-1], word) in CONTRACTIONS:
            contracted[-1] = CONTRACTIONS[contracted[-1], word]
        else:
            contracted.append(word)
    return contracted
