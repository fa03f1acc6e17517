"""Seeded values for the lab's text: error codes, GPUs, hosts, people, companies, numbers.

Held-out values come from the same alphabets and formats as the others, but a hash of the value decides
which split may use it, so no code, host, person or company of the held-out split occurs elsewhere.
"""

from __future__ import annotations

import re
import string
import zlib
from collections.abc import Callable, Sequence
from random import Random
from typing import Literal

Split = Literal["pretrain", "train", "heldout"]

# One value in five is reserved for the held-out split.
_HELDOUT_BUCKETS = 5
_NOT_ALNUM = re.compile(r"[^0-9a-z]+")

UPPER = string.ascii_uppercase
LOWER = string.ascii_lowercase
DIGITS = string.digits
HEX = "0123456789ABCDEF"
ALNUM = UPPER + DIGITS


def _words(block: str) -> tuple[str, ...]:
    return tuple(block.split())


def _phrases(block: str) -> tuple[str, ...]:
    return tuple(" ".join(part.split()) for part in block.split("|"))


# Names a ticket may carry; the split does not divide them, so that a held-out ticket stays realistic.
REAL_GPUS: tuple[str, ...] = _phrases("""
    A100 | H100 | H200 | B200 | B300 | GB200 | GB300 | GH200 | L4 | L40 | L40S | A10 | A10G | A16 | A30
    | A40 | A2 | T4 | V100 | P100 | P40 | RTX 4090 | RTX 3090 | RTX 5090 | RTX 4080 | RTX A6000 |
    RTX A5000 | RTX 6000 Ada | H20 | H800 | A800 | MI210 | MI250X | MI300X | MI325X | MI355X
""")

_GIVEN = _words("""
    Aisha Alex Amara Ana Anders Anil Anna Antoine Ben Bianca Bruno Camille Carlos Carmen Chen Chiara
    Claire Dana Daniel David Diego Elena Elif Emma Erik Fatima Felix Florian Francesca Gabriel Giulia
    Grace Hana Hannah Hiro Hugo Ines Ingrid Isabel Ivan Jakob James Jana Javier Jin Jonas Julia Kai
    Karim Katja Kenji Lars Laura Lea Leo Lena Lin Lucas Lucia Luis Magda Manuel Marco Maria Marta Maya
    Mei Mia Miguel Mina Mohamed Nadia Nia Nico Nina Noah Nora Olga Oliver Omar Oscar Pablo Paul Pedro
    Petra Pierre Priya Rafael Rahul Rania Robin Rosa Ruth Sam Samir Sara Selim Sofia Sophie Stefan Sven
    Tara Theo Thomas Tim Tomas Uma Vera Victor Wei Yara Yuki Yusuf Zoe
""")
_SUR_A = _words("""
    Ab Al And Ar Bar Bau Bel Ber Bor Bra Cal Car Cas Chan Con Dal Del Dom Dor Du El Er Fal Fer Fis Fon
    Ga Gar Ger Gon Gra Gun Ha Hal Har Hen Hol Hu Ib Is Ja Jan Jo Ka Kal Kel Ker Kim Ko Kra Ku La Lan Lem
    Lin Lo Lu Mal Mar Mat Mei Men Mo Mol Mor Mu Na Nak Nel No Ol Or Os Pa Pal Pe Per Pol Ra Ram Rei Ri
    Ro Ros Sa San Schu Sei Sil Sol Sta Su Ta Tan Tor Tra Ul Val Van Ver Vo Wal Wei Wen Wil Ya Yam Za Zel
    Zim
""")
_SUR_B = _words("""
    a ado ak ani ano ard ari as ato aud aux bach beck berg bert brandt chuk da dano de den der dez dini
    do dorf dov el elli en er erman esco etti eva field gaard gard giani gren hardt hofer holm huis i
    ida ier iko imoto ing ino ira isse ita ke ken kin kova lain land lander laub ler ley lin lo lund
    mann mar mark mayer meier mino mont mura nak nandez ner ney nov o oglu ola oli on onen ori os ota
    oux ov ova quist ra raj rell rini ro sen shi ski skov son stad stein ström ta tani tez thal tier to
    ton tov uchi uez ulin va vali vari vic vin wald wood worth yan ye
""")
_CO_A = _words("""
    Acro Aero Agri Alpen Altus Amber Apex Aqua Arc Argo Astra Atlas Aven Axio Bel Bio Blue Boreal Bright
    Calor Cap Cedar Ciel Cinder Clear Cobalt Copper Core Coral Crest Cyan Dawn Delta Dyna East Echo Edel
    Elm Ember Ever Falcon Fenn Fern Fjord Flux Forge Frost Gala Geo Glen Gran Green Grid Halo Harbor
    Hart Helio Hexa High Hydro Indigo Ion Iris Iron Juno Kel Kern Kite Krypt Lago Lark Lumen Luna Lyra
    Mag Maple Mar Medi Meridian Mica Mono Moss Nano Neo Nimbus Nord Nova Oak Ober Octa Omni Onyx Opal
    Orbi Orchid Osprey Pan Peak Perl Pine Pixel Polar Prime Quanta Quarz Quill Rain Raven Redwood Rhein
    River Ruby Sage Salt Sapphire Sierra Silva Sky Solar Sonn Spark Stein Stella Storm Stratus Sun Swift
    Syn Tal Tellur Terra Tide Titan Topaz Tri Umbra Ursa Vale Vanta Vega Velo Verd Vertex Vista Volt
    Wald West Wind Wolf Xeno Zenit Zephyr
""")
_CO_B = _words("""
    bank base beam bit bridge byte cell chem craft data dyne fab farm field flow foods form freight gate
    gen graph grid ics ion kraft lab labs lane leaf lens light line link loft logic lytics map mark
    matic mech med mesh metrics mind motion nav net node nova optics path plan point port press pulse
    quant rail robotics scan sense shift soft space spring stack star stream sys tech text tide trade
    turbine vault vision voice ware watt wave way wealth weave werk wise works yard
""")
_LEGAL_FORMS = _words("GmbH AG Ltd Inc SA Labs Research Systems Group BV AB")
# Three names in fourteen have none.
_CO_TAIL = ("", "", "", *(f" {form}" for form in _LEGAL_FORMS))
_HOST_A = _words("""
    node gpu compute dgx hgx worker train infer serve edge rack blade hpc cn gn srv vm pod login head
    store nas db cache proxy build ci dev prod stage batch render sim lab ml ai llm asr viz etl mon log
""")
_DOMAINS = ("com", "io", "ai", "net", "org", "de", "fr", "eu", "cloud", "dev", "tech", "co")
_WORDS_CODE = _words("""
    ERR ERROR FAULT FAIL CUDA GPU NCCL IB NVL MEM ECC PCIE DRV HW NET FS SCHED JOB POD AUTH BILL PWR FAN
    TEMP LINK DMA BUS RDMA MPI TRT API IO DISK QUOTA LIC CFG INIT SYNC TIMEOUT ABORT STALL XID EVT ALERT
    WARN SYS OPS RUN
""")
PRODUCTS: tuple[str, ...] = _phrases("""
    training cluster | inference server | notebook service | job scheduler | object store | file share |
    container registry | model registry | API gateway | billing portal | admin console | login node |
    batch queue | load balancer | dashboard | metrics stack | backup service | message queue |
    VPN gateway | license server | data pipeline | feature store | vector index | chat endpoint |
    speech service | image service | render farm | edge appliance | workstation | storage array |
    leaf switch | spine switch | power shelf | cooling loop | development cluster | staging cluster |
    web console | command line client
""")
_PATH_ROOTS = _words("/var/log /opt /srv /home /data /mnt /scratch /etc /usr/local /tmp /models")
_PATH_NAMES = _words("""
    app train model data cache logs run jobs config nccl cuda driver triton slurm kube shard ckpt
    weights batch dataset export backup report trace metrics output input test main worker node launch
    eval
""")
_EXT = _words("log txt json yaml py sh bin csv conf out err pt safetensors tar.gz")
_MONTHS = _words("""
    Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec
""")
_REGIONS = (
    "eu-west",
    "eu-north",
    "eu-central",
    "us-east",
    "us-west",
    "us-south",
    "ap-south",
    "ap-east",
    "sa-east",
)
_SEPARATORS = ("-", "-", "-", "-", "_", "_", ".", ":", "#", "/", "")


_REAL_GPU_SET = frozenset(REAL_GPUS)


def is_held_out(value: str) -> bool:
    """True if only the held-out split may use this value; case and punctuation do not matter."""
    key = _NOT_ALNUM.sub("", value.casefold())
    return (zlib.crc32(key.encode()) >> 7) % _HELDOUT_BUCKETS == 0


def _letters(rng: Random, n: int, alphabet: str) -> str:
    return "".join(rng.choices(alphabet, k=n))


def _prefix(rng: Random) -> str:
    n = rng.choice((2, 2, 3, 3, 3, 4, 4, 5))
    style = rng.random()
    if style < 0.52:
        return _letters(rng, n, UPPER)
    if style < 0.67:
        return _letters(rng, n, LOWER)
    if style < 0.72:
        return _letters(rng, 1, UPPER) + _letters(rng, n - 1, LOWER)
    if style < 0.77:
        return _letters(rng, n, UPPER + LOWER)
    word = rng.choice(_WORDS_CODE)
    return word if style < 0.93 else word.lower() if style < 0.98 else word.capitalize()


def _digits(rng: Random) -> str:
    return _letters(rng, rng.choice((2, 2, 3, 3, 4, 4, 5, 6)), DIGITS)


def _tail(rng: Random) -> str:
    kind = rng.random()
    if kind < 0.6:
        return _digits(rng)
    if kind < 0.72:
        return _letters(rng, rng.randint(2, 4), ALNUM) + rng.choice(DIGITS)
    if kind < 0.82:
        return rng.choice(DIGITS) + _letters(rng, rng.randint(1, 3), ALNUM)
    if kind < 0.92:
        return _digits(rng) + rng.choice(UPPER)
    return "0x" + _letters(rng, rng.randint(2, 4), HEX) + rng.choice(DIGITS)


def _code(rng: Random) -> str:
    shape = rng.random()
    sep = rng.choice(_SEPARATORS)
    if shape < 0.46:
        return f"{_prefix(rng)}{sep}{_tail(rng)}"
    if shape < 0.52:
        head = rng.choice(("E", "e", "X", "F", "", ""))
        return f"{head}0x{_letters(rng, rng.randint(2, 5), HEX)}{rng.choice(DIGITS)}"
    if shape < 0.60:
        return f"{rng.choice(_WORDS_CODE)}_{rng.choice(_WORDS_CODE)}_{_tail(rng)}"
    if shape < 0.67:
        words = [
            rng.choice(_WORDS_CODE).lower(),
            rng.choice(_WORDS_CODE).lower() if rng.random() < 0.6 else _prefix(rng),
        ]
        return rng.choice((".", ".", "/", ":", "-")).join([*words, _digits(rng)])
    if shape < 0.76:
        left = rng.choice(UPPER) + rng.choice(DIGITS)
        return f"{left}{sep}{_letters(rng, rng.randint(1, 3), UPPER)}{_letters(rng, rng.randint(1, 3), DIGITS)}"
    if shape < 0.82:
        return f"{_digits(rng)}{rng.choice('-_./:')}{_prefix(rng)}"
    if shape < 0.89:
        inner = rng.choice("-_.:")
        return f"{_prefix(rng)}{inner}{_digits(rng)}{rng.choice((inner, '-', '.'))}{_tail(rng)}"
    if shape < 0.93:
        return f"{rng.choice(UPPER)}{_digits(rng)}{rng.choice(UPPER)}"
    if shape < 0.97:
        return f"{_letters(rng, rng.randint(1, 3), UPPER)}{sep}{_digits(rng)}"
    return f"{rng.choice(DIGITS)}{_letters(rng, rng.randint(3, 5), ALNUM)}{rng.choice(DIGITS)}"


def _company(rng: Random) -> str:
    stem = rng.choice(_CO_A) + rng.choice(_CO_B)
    return stem + rng.choice(_CO_TAIL)


def _surname(rng: Random) -> str:
    return rng.choice(_SUR_A) + rng.choice(_SUR_B)


def _host(rng: Random) -> str:
    a = rng.choice(_HOST_A)
    kind = rng.random()
    if kind < 0.3:
        return f"{a}-{_letters(rng, rng.randint(2, 3), LOWER)}{rng.randint(0, 99):02d}"
    if kind < 0.5:
        return f"{a}{rng.randint(1, 9999):0{rng.choice((2, 3, 4))}d}"
    if kind < 0.7:
        return f"{a}-{rng.choice(_HOST_A)}-{rng.randint(0, 999):0{rng.choice((1, 2, 3))}d}"
    if kind < 0.85:
        return f"{_letters(rng, rng.randint(2, 4), LOWER)}-{a}{rng.randint(1, 99):02d}"
    rack = f"{_letters(rng, 1, LOWER)}{rng.randint(1, 40)}-{rng.randint(1, 99)}"
    return f"{a}-{rack}.{_letters(rng, 3, LOWER)}{rng.randint(1, 9)}"


def _synthetic_gpu(rng: Random) -> str:
    kind = rng.random()
    number = rng.choice((str(rng.randint(2, 99)), f"{rng.randint(1, 99)}0", f"{rng.randint(1, 99)}00"))
    if kind < 0.55:
        suffix = rng.choice(("", "", "", "S", "X", "G", rng.choice(UPPER)))
        return f"{_letters(rng, rng.choice((1, 1, 2)), UPPER)}{number}{suffix}"
    if kind < 0.85:
        family = rng.choice(("RTX", "GTX", "RX", "Arc", "PRO", _letters(rng, 3, UPPER)))
        letter = rng.choice(("", "", rng.choice(UPPER)))
        return f"{family} {letter}{rng.randint(10, 99)}{rng.choice(('0', '00'))}"
    return f"{_letters(rng, 2, UPPER)}{number}{rng.choice(('-', ' '))}{_letters(rng, rng.randint(1, 2), UPPER)}"


def _cluster(rng: Random) -> str:
    stem = f"{rng.choice(_CO_A).lower()}-{rng.choice(_HOST_A)}"
    return stem + rng.choice(("", f"-{rng.randint(1, 20)}"))


def company_stem(company: str) -> str:
    """The company's name without its legal form, the part that the split divides."""
    return company.split(" ", 1)[0]


def slug(text: str) -> str:
    """Lower-case ASCII letters and digits of a name, for user names and domains."""
    return _NOT_ALNUM.sub("", text.casefold().replace("ö", "oe"))


class Entities:
    """A stream of values for one split, reproducible from the generator it is given.

    Codes, hosts, companies and surnames (with everything derived from them: user names, e-mail addresses,
    domains) of `heldout` are disjoint from those of `pretrain` and `train`, which share theirs.
    """

    def __init__(self, rng: Random, split: Split) -> None:
        self.rng = rng
        self.split = split
        self._want_held_out = split == "heldout"

    def _draw(self, make: Callable[[Random], str], key: Callable[[str], str] = str) -> str:
        while True:
            value = make(self.rng)
            if is_held_out(key(value)) == self._want_held_out:
                return value

    def pick(self, options: Sequence[str]) -> str:
        """One of the options."""
        return options[int(self.rng.random() * len(options))]

    def code(self) -> str:
        """An error or fault code: 3 to about 20 characters without spaces, with at least one digit."""
        while True:
            value = self._draw(_code)
            if value not in _REAL_GPU_SET and not value.isdigit():
                return value

    def scrap(self, alphabet: str, low: int, high: int) -> str:
        """A random string of low to high characters; the split divides these too."""
        return self._draw(lambda rng: _letters(rng, rng.randint(low, high), alphabet))

    def codes(self, n: int) -> list[str]:
        """`n` different codes."""
        found: dict[str, None] = {}
        while len(found) < n:
            found[self.code()] = None
        return list(found)

    def gpu(self) -> str:
        """A real GPU's short name, for tasks."""
        return self.pick(REAL_GPUS)

    def synthetic_gpu(self) -> str:
        """A name with the shape of a GPU's that exists nowhere, so that it can only be copied."""
        return self._draw(_synthetic_gpu)

    def any_gpu(self) -> str:
        """Real or synthetic, half each."""
        return self.gpu() if self.rng.random() < 0.5 else self.synthetic_gpu()

    def gpu_long(self, name: str) -> str:
        """A longer way to write a GPU's name that still contains the short one verbatim."""
        memory = self.pick(("16GB", "24GB", "40GB", "48GB", "80GB", "94GB", "141GB", "192GB"))
        return self.pick(
            (
                f"NVIDIA {name}",
                f"{name} {memory}",
                f"{name}-{memory}",
                f"{name} SXM",
                f"{name} PCIe",
                f"NVIDIA {name} {memory}",
                f"{name} NVL",
                f"{self.rng.choice((2, 4, 8))}x {name}",
            )
        )

    def host(self) -> str:
        """A host or node name."""
        return self._draw(_host)

    def surname(self) -> str:
        """A family name."""
        while True:
            value = self._draw(_surname)
            if value not in _GIVEN:
                return value

    def person(self) -> str:
        """Given name and family name."""
        return f"{self.pick(_GIVEN)} {self.surname()}"

    def given(self) -> str:
        """A given name; the split does not divide these."""
        return self.pick(_GIVEN)

    def username(self, person: str | None = None) -> str:
        """A login name made from a person's name."""
        given, _, family = (person or self.person()).partition(" ")
        g, f = slug(given), slug(family)
        return self.pick((f"{g[0]}{f}", f"{g}.{f}", f"{f}{g[0]}", f"{f}{self.rng.randint(1, 99)}", f"{g[0]}_{f}"))

    def company(self) -> str:
        """A company's name, sometimes with a legal form."""
        return self._draw(_company, company_stem)

    def email(self, person: str | None = None, company: str | None = None) -> str:
        """An address of the person at the company."""
        stem = slug(company_stem(company or self.company()))
        return f"{self.username(person)}@{stem}.{self.pick(_DOMAINS)}"

    def phone(self) -> str:
        """A telephone number in one of several international layouts."""
        rng = self.rng
        a, b, c = rng.randint(100, 999), rng.randint(100, 999), rng.randint(1000, 9999)
        return self.pick(
            (
                f"+1 {a} {b} {c}",
                f"+49 {a} {b}{c}",
                f"+33 {a % 10} {b % 100:02d} {c // 100} {c % 100:02d} 41",
                f"({a}) {b}-{c}",
                f"+44 20 {c} {a}{b % 10}",
                f"{a}-{b}-{c}",
                f"+34 {a} {b} {c % 1000:03d}",
            )
        )

    def ip(self) -> str:
        """A private IPv4 address."""
        rng = self.rng
        head = rng.choice((f"10.{rng.randint(0, 255)}", "192.168", f"172.{rng.randint(16, 31)}"))
        return f"{head}.{rng.randint(0, 255)}.{rng.randint(1, 254)}"

    def version(self) -> str:
        """A software version."""
        rng = self.rng
        form = rng.choice((0, 0, 1, 2, 3))
        base = f"{rng.randint(0, 26)}.{rng.randint(0, 20)}"
        if form == 1:
            return f"{rng.randint(450, 595)}.{rng.randint(10, 199)}.{rng.randint(1, 99):02d}"
        return base if form == 2 else f"v{base}.{rng.randint(0, 9)}" if form == 3 else f"{base}.{rng.randint(0, 19)}"

    def date(self) -> str:
        """A day of 2023 to 2026."""
        rng = self.rng
        y, m, d = rng.randint(2023, 2026), rng.randint(1, 12), rng.randint(1, 28)
        return self.pick(
            (
                f"{y}-{m:02d}-{d:02d}",
                f"{d} {_MONTHS[m - 1]} {y}",
                f"{_MONTHS[m - 1]} {d}",
                f"{d:02d}.{m:02d}.{y}",
            )
        )

    def clock(self) -> str:
        """A time of day."""
        rng = self.rng
        base = f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}"
        return base if rng.random() < 0.5 else f"{base}:{rng.randint(0, 59):02d}"

    def timestamp(self) -> str:
        """An ISO or log-style time stamp with seconds."""
        rng = self.rng
        y, m, d = rng.randint(2023, 2026), rng.randint(1, 12), rng.randint(1, 28)
        t = f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}:{rng.randint(0, 59):02d}"
        return self.pick((f"{y}-{m:02d}-{d:02d}T{t}Z", f"{y}-{m:02d}-{d:02d} {t}", f"{_MONTHS[m - 1]} {d:2d} {t}", t))

    def path(self) -> str:
        """An absolute file path of two to four parts."""
        rng = self.rng
        parts = [self.pick(_PATH_NAMES) for _ in range(rng.randint(1, 2))]
        number = rng.choice(("", f"-{rng.randint(0, 99)}", f"_{rng.randint(0, 9)}"))
        return f"{self.pick(_PATH_ROOTS)}/{'/'.join(parts)}{number}.{self.pick(_EXT)}"

    def number(self) -> str:
        """A number with one to six digits, sometimes with decimals or a thousands separator."""
        rng = self.rng
        form = rng.random()
        if form < 0.5:
            return str(rng.randint(0, 10 ** rng.randint(1, 5)))
        return (
            f"{rng.random() * 10 ** rng.randint(0, 3):.{rng.randint(1, 2)}f}"
            if form < 0.85
            else f"{rng.randint(1000, 999999):,}"
        )

    def region(self) -> str:
        """A cloud region."""
        return f"{self.pick(_REGIONS)}-{self.rng.randint(1, 4)}"

    def cluster(self) -> str:
        """A cluster's name; the split divides these like hosts."""
        return self._draw(_cluster)

    def job_id(self) -> str:
        """A scheduler's job number."""
        return str(self.rng.randint(1000, 9999999))

    def ticket_id(self) -> str:
        """A support request's own number, a distractor beside error codes."""
        heads = ("INC", "REQ", "CASE-", "T-", "#", "SR", "TKT-")
        return self._draw(lambda rng: f"{rng.choice(heads)}{rng.randint(1000, 999999)}")

    def product(self) -> str:
        """A noun phrase for a part of the platform."""
        return self.pick(PRODUCTS)
