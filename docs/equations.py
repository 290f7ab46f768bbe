"""Unicode equations of docstrings, such as hₜ = σ(xₜ w_ih + b), as TeX."""

import re
from collections.abc import Iterator

_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁱⁿᵀᵏˡᴸʲᵗᵐ", "0123456789+-()inTklLjtm", strict=True))
_SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋₍₎ₐₑₕᵢⱼₖₗₘₙₒₚᵣₛₜᵤᵥₓ", "0123456789+-()aehijklmnoprstuvx", strict=True))
_ACCENTS = {"\u0303": "tilde", "\u0302": "hat", "\u0304": "bar", "\u0307": "dot"}
_PRECOMPOSED = {
    "ĩ": "i\u0303",
    "õ": "o\u0303",
    "ĥ": "h\u0302",
    "ñ": "n\u0303",
    "ũ": "u\u0303",
    "ŷ": "y\u0302",
}
_FUNCTIONS = {"tanh", "exp", "log", "min", "max", "sin", "cos", "det"}
_NAMES = {"relu", "softplus", "sign", "Re", "diag", "mean", "var", "Bernoulli", "dh", "dv", "dt", "LN", "xs"}
_SYMBOLS = {
    "·": r"\cdot ",
    "∗": r"\ast ",
    "−": "-",
    "≥": r"\ge ",
    "≤": r"\le ",
    "←": r"\leftarrow ",
    "↦": r"\mapsto ",
    "∘": r"\circ ",
    "×": r"\times ",
    "~": r"\sim ",
    "‖": r"\|",
    "…": r"\dots ",
    "⌊": r"\lfloor ",
    "⌋": r"\rfloor ",
    "⊙": r"\odot ",
    "±": r"\pm ",
    "∞": r"\infty ",
    "{": r"\{",
    "}": r"\}",
    "%": r"\%",
    "&": r"\&",
    "#": r"\#",
}
_SUP, _SUB = "".join(_SUPERSCRIPTS), "".join(_SUBSCRIPTS)
_TAIL = rf"(?:[{_SUB}]+[LMNT]?|[{_SUP}]+|_\{{[^}}]*\}}|_[A-Za-zΑ-ωθ0-9]+|\^[A-Za-z]+|′)*"
_TOKEN = re.compile(
    r'(?P<quoted>"[^"]*"|`[^`]*`)'
    r"|(?P<number>\d+(?:\.\d+)?(?:e-?\d+)?)"
    r"|(?P<genitive>[a-z]+'s)"
    rf"|(?P<word>[A-Za-zΑ-Ωα-ω∂∇]+[\u0300-\u036f]?\d*)(?P<marks>{_TAIL})"
    rf"|(?P<close>[)\]‖])(?P<after>{_TAIL})"
    r"|(?P<space>\s+)"
    r"|(?P<other>.)"
)
_MARK = re.compile(
    rf"(?P<sub>[{_SUB}]+[LMNT]?)|(?P<sup>[{_SUP}]+)|_\{{(?P<braced>[^}}]*)\}}|_(?P<under>[A-Za-zΑ-ω0-9]+)"
    r"|\^(?P<hat>[A-Za-z]+)|(?P<prime>′)"
)


def block_to_tex(text: str) -> str:
    """Convert a block of equations, one a line, into an aligned TeX display.

    Text after two or more spaces on a line, such as a condition, becomes a column of its own.

    >>> print(block_to_tex("zₜ = σ(xₜ w_z)     gated=True"))
    \\begin{align*}
    z_{t} &= σ(x_{t}\\,w_{z}) &&\\text{gated=True}
    \\end{align*}
    """
    rows = [_row(line.strip()) for line in text.strip("\n").splitlines() if line.strip()]
    return "\n".join([r"\begin{align*}", *(row + r" \\" for row in rows[:-1]), rows[-1], r"\end{align*}"])


def _row(line: str) -> str:
    parts = re.split(r" {2,}", line)
    notes: list[str] = []
    while len(parts) > 1 and _is_note(parts[-1], parts[-2]):
        notes.insert(0, parts.pop())
    tex = r" \quad ".join(to_tex(part) for part in parts)
    relation = re.search(r"=|\\leftarrow|\\mapsto|\\sim", tex)
    cut = relation.start() if relation else 0
    aligned = f"{tex[:cut].rstrip()} &{tex[cut:]}" if relation else f"& {tex}"
    return aligned + (r" &&" + r" \quad ".join(map(_note, notes)) if notes else "")


def _is_note(part: str, before: str) -> bool:
    if re.match(r"[a-z_]{3,}=", part):
        return True
    return not before.endswith((",", ";")) and bool(re.match(r"(\d |[a-z]{2,} )", part)) and "=" not in part


def _note(text: str) -> str:
    """A remark beside an equation: words, with mathematics where it cannot be mistaken."""
    escaped = re.sub(r"([_{}%&#])", r"\\\1", text.replace("`", ""))
    return rf"\text{{{escaped}}}"


def to_tex(text: str) -> str:
    r"""Convert one expression; a space between factors becomes a thin space.

    >>> to_tex("hₜ₋₁ u_n + √(1 − aₜ²)")
    'h_{t-1}\\,u_{n} + \\sqrt{1 - a_{t}^{2}}'
    """
    for precomposed, plain in _PRECOMPOSED.items():
        text = text.replace(precomposed, plain)
    tex, before, gap = "", "", False
    for kind, token in _tokens(_roots(text)):
        if kind == "space":
            gap = True
            continue
        if before == kind == "words" and gap:
            tex = f"{tex[:-1]} {token.removeprefix(chr(92) + 'text{')}"
        else:
            tex += _gap(before, kind) if gap else ""
            tex += token
        before, gap = kind, False
    return tex


def _gap(before: str, kind: str) -> str:
    if "words" in (before, kind) and {before, kind} <= {"words", "factor", "open", "close", "function"}:
        return r"\;"
    if before == "function" and kind in ("factor", "function"):
        return r"\,"
    return r"\," if before in ("factor", "close") and kind in ("factor", "open") else " "


def _roots(text: str) -> str:
    """Mark what a √ reaches over by braces that no equation holds otherwise: √⟦ … ⟧."""
    while (start := text.find("√")) >= 0:
        if text[start + 1] != "(":
            text = f"{text[:start]}⟦{text[start + 1]}⟧{text[start + 2 :]}"
            continue
        depth, end = 1, start + 2
        while depth:
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            end += 1
        text = f"{text[:start]}⟦{text[start + 2 : end - 1]}⟧{text[end:]}"
    return text


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    """Pairs of a kind and its TeX; kinds: factor, function, words, open, close, space, other."""
    for match in _TOKEN.finditer(text):
        token = match[0]
        if match["word"]:
            yield _word(match["word"], match["marks"] or "")
        elif match["quoted"] or match["genitive"]:
            yield "words", _note(token.strip("`"))
        elif match["space"]:
            yield "space", " "
        elif match["close"]:
            yield "close", _SYMBOLS.get(token[0], token[0]) + _marks(match["after"])
        elif token in "⟦⟧":
            yield ("factor", r"\sqrt{") if token == "⟦" else ("close", "}")
        else:
            if match["number"]:
                token = re.sub(r"^1e(-?\d+)$", r"10^{\1}", token)
            kind = "factor" if match["number"] else "open" if token in "([" else "other"
            yield kind, _SYMBOLS.get(token, token)


def _word(word: str, marks: str) -> tuple[str, str]:
    base = word if word[-1] not in _ACCENTS else rf"\{_ACCENTS[word[-1]]}{{{word[:-1]}}}"
    if len(word) == 1 or word[-1] in _ACCENTS or not word.isascii():
        return "factor", base + _marks(marks)
    if word in _FUNCTIONS and not marks.startswith("_"):
        return "function", rf"\{word}" + (_marks(marks) or " ")
    if name := re.match(r"_[A-Za-z_]+", marks):  # a name of code: max_norm
        return "words", _note(word + name[0]) + _marks(marks[name.end() :])
    if re.fullmatch(r"[A-Za-zα-ω]\d+", word):
        return "factor", f"{{{word}}}" + _marks(marks)
    if word in _NAMES or marks:
        return "factor", rf"\operatorname{{{word}}}" + _marks(marks)
    return "words", rf"\text{{{word}}}"


def _marks(marks: str) -> str:
    """Sub- and superscripts, each kind gathered: bˡ_n becomes b_{n}^{l}."""
    below, above, primes, within = "", "", "", False
    for mark in _MARK.finditer(marks):
        if mark["sub"]:
            below += "".join(_SUBSCRIPTS.get(c, c) for c in mark["sub"])
        elif mark["sup"]:
            above += "".join(_SUPERSCRIPTS[c] for c in mark["sup"])
        elif mark["prime"] and within:  # Σ_y′ sums over y′
            below += "'"
        elif mark["prime"]:
            primes += "'"
        else:
            below += to_tex(mark["braced"]) if mark["braced"] else mark["under"] or ""
            above += mark["hat"] or ""
        within = bool(mark["under"])
    tex = f"_{{{below}}}" if below else ""
    above = above + r"\prime" * len(primes)
    return tex + (f"^{{{above}}}" if above else "")
