"""The data of text_classification.py, docstrings of installed libraries, and the page of the words that counted."""

from __future__ import annotations

import ast
import html
import importlib.util
import re
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from parts import image_options

import numpy as np

import tinyattn as ta
from tinyattn import train

LIBRARIES = {"numpy": "NumPy", "scipy": "SciPy", "sklearn": "scikit-learn", "matplotlib": "Matplotlib"}
MASKED = "▢"  # instead of a library's own name
_OWN_NAMES = re.compile(
    r"\w*(?:numpy|scipy|sklearn|scikit.learn|matplotlib|pyplot|pylab)\w*|\b(?:np|mpl\w*|plt)\b", re.I
)
_WORD = re.compile(r"[^\W\d_]+|\d+")  # letters or digits
PADDING, UNKNOWN = 0, 1  # the first two numbers of words


class Texts(NamedTuple):
    """texts: docstrings, each cut after its last word that counts. labels: of their libraries. held_out: booleans."""

    texts: list[str]
    labels: Any
    held_out: Any


def load_docstrings(count: int, seed: int, length: int = 128) -> Texts:
    """Return up to `count` docstrings of each library, of at least 100 characters and at most `length` words.

    Tests are left out, and so is what equals an earlier docstring. The docstrings of every fifth file are held out, so
    that training and test texts come from other files. Raises RefusedError for a library that is not installed.
    """
    generator, seen = np.random.default_rng(seed), set()
    texts: list[str] = []
    labels: list[int] = []
    held_out: list[bool] = []
    for label, library in enumerate(LIBRARIES):
        found = importlib.util.find_spec(library)
        if found is None or not found.origin:
            raise train.RefusedError(f'{library} is not installed; pip install "tinyattn[train,viz]" brings all four.')
        files = [path for path in sorted(Path(found.origin).parent.rglob("*.py")) if "tests" not in path.parts]
        generator.shuffle(files)  # type: ignore[arg-type]
        for number, path in enumerate(files):
            for text in docstrings(path):
                ends = [word.end() for word in _WORD.finditer(text)][:length]
                text = text[: ends[-1]] if ends else ""
                if len(text) >= 100 and (key := " ".join(words(text))) not in seen:
                    seen.add(key)
                    texts.append(text)
                    labels.append(label)
                    held_out.append(number % 5 == 0)
            if labels.count(label) >= count:
                break
    return Texts(texts, np.array(labels), np.array(held_out))


def docstrings(path: Path) -> list[str]:
    """Return the docstrings of the functions and classes of a file, with the names of the libraries masked."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):  # a template, or a file of another Python
        return []
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    found = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds))
    return [_OWN_NAMES.sub(MASKED, text) for text in found if text]


def words(text: str) -> list[str]:
    """Return the words of a text in lower case."""
    return [word.lower() for word in _WORD.findall(text)]


def features(text: str) -> list[tuple[str, ...]]:
    """Return of each word: itself, the pair with the word before, and its first and last four letters if it has more.

    A feature that a word does not have is "".
    """
    found = words(text)
    ends = [(f"{word[:4]}-", f"-{word[-4:]}") if len(word) > 4 else ("", "") for word in found]
    return [(word, f"{before} {word}" if before else "", *more)
            for before, word, more in zip(["", *found], found, ends, strict=False)]  # fmt: skip


def all_features(text: str) -> list[str]:
    """Return the features of all words of a text."""
    return [feature for of_word in features(text) for feature in of_word if feature]


def numbered(texts: Sequence[str], vocabulary: Mapping[str, int], length: int = 128) -> Any:
    """Return the numbers of the features of the words, int64 (texts, length, 4), 0 for none and after the last word.

    The first feature is the word: 1 if it is unknown. Other unknown features are 0.
    """
    out = np.full((len(texts), length, 4), PADDING)
    for row, text in zip(out, texts, strict=True):
        for place, found in zip(row, features(text), strict=False):
            place[:] = [vocabulary.get(feature, PADDING) for feature in found]
            place[0] = place[0] or UNKNOWN
    return out


def erase(inputs: ta.Tensor, erased: ta.Tensor) -> ta.Tensor:
    """Make words unknown and drop their pairs: inputs int64 (batch, length, 4), erased bool (batch, length)."""
    behind = ta.cat([ta.zeros_like(erased[:, :1]), erased[:, :-1]], 1)
    inputs = inputs.masked_fill(ta.stack([erased, erased | behind, erased, erased], 2), PADDING)
    inputs[..., 0] += UNKNOWN * erased
    return inputs


def thinned(inputs: ta.Tensor, share: float = 0.5) -> ta.Tensor:
    """Erase a share of the words at random, and then the same share of the features that are left."""
    gone = ta.rand(*inputs.shape, device=inputs.device) < share  # (batch, length, 4)
    found = inputs[..., 0] != PADDING
    inputs = erase(inputs, found & (ta.rand(*found.shape, device=inputs.device) < share)).masked_fill(gone, PADDING)
    inputs[..., 0] += UNKNOWN * (found & gone[..., 0])
    return inputs


def vocabulary_of(texts: Sequence[str], least: int = 2) -> dict[str, int]:
    """Return the numbers, from 2, of the features that are in at least `least` texts, the most frequent first."""
    counts = Counter(feature for text in texts for feature in {*all_features(text)})
    kept = sorted((word for word, count in counts.items() if count >= least), key=lambda word: (-counts[word], word))
    return {word: number for number, word in enumerate(kept, 2)}


def regressions(texts: Sequence[str], tests: Sequence[str], labels: Any, truth: Any) -> dict[str, float]:
    """Return the accuracy of logistic regression on TF-IDF: of the words, and of all features."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    found = {}
    for name, analyzer in {"words": words, "all features": all_features}.items():
        counts = TfidfVectorizer(analyzer=analyzer, min_df=2, sublinear_tf=True)
        fitted = LogisticRegression(C=10, max_iter=1000).fit(counts.fit_transform(texts), labels)
        found[f"regression, TF-IDF of {name}"] = fitted.score(counts.transform(tests), truth)
    return found


STYLE = """\
:root { color-scheme: light dark; --page: #fff; --text: #0f172a; --quiet: #55627a; --line: #dbe2ea; }
@media (prefers-color-scheme: dark) { :root { --page: #10151d; --text: #e7edf5; --quiet: #9aa8bc; --line: #2c3747; } }
body { margin: 2rem auto; max-width: 52rem; padding: 0 1rem; background: var(--page); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.4rem; } h2 { font-size: 1rem; margin: 0 0 .4rem; }
p, small { color: var(--quiet); }
section { border-top: 1px solid var(--line); padding: 1rem 0; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; font: 14px/1.6 ui-monospace, monospace; }
mark { color: var(--text); border-radius: 3px; background: rgb(213 94 0 / var(--share)); }
mark.against { background: rgb(0 114 178 / var(--share)); }
"""


def page(title: str, about: Sequence[str], items: Sequence[tuple[str, str, Any]]) -> str:
    """Return an HTML page without scripts, in which each word is coloured by what it added to the score.

    about: paragraphs. items: (heading, text, a number for each word). All text is escaped.
    """
    sections = []
    for heading, text, added in items:
        most, parts, last = max(np.abs(added).max(), 1e-9), [], 0
        for word, value in zip(_WORD.finditer(text), added, strict=False):
            parts.append(html.escape(text[last : word.start()]))
            last, shown = word.end(), html.escape(word[0])
            if (share := 0.65 * abs(value) / most) >= 0.03:
                kind = "for" if value > 0 else "against"
                shown = f'<mark class="{kind}" style="--share: {share:.2f}" title="{value:+.2f}">{shown}</mark>'
            parts.append(shown)
        parts.append(html.escape(text[last:]))
        sections.append(f"<section><h2>{html.escape(heading)}</h2><pre>{''.join(parts)}</pre></section>")
    legend = (
        '<p>Colours: <mark class="for" style="--share: .65">for</mark> and <mark class="against" style="--share: .65">'
        "against</mark> the predicted library; full colour is the strongest word of a text. "
        f"{MASKED} is a masked name.</p>"
    )
    return textwrap.dedent("""\
        <!DOCTYPE html>
        <html lang="en"><head><meta charset="utf-8">
        <meta name="viewport" content="width=device-width, initial-scale=1">
        <meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
        <title>{title}</title><style>
        {style}</style></head><body><h1>{title}</h1>
        {about}{legend}
        {sections}
        </body></html>
        """).format(
        title=html.escape(title), style=STYLE, legend=legend, sections="\n".join(sections),
        about="".join(f"<p>{html.escape(each)}</p>" for each in about),
    )  # fmt: skip


def explain(
    session: train.Session, inputs: np.ndarray, truth: np.ndarray, texts: Sequence[str], about: str,
) -> dict[str, float]:  # fmt: skip
    """Print and return the accuracy without the five words that added most to the predicted class; write the page."""
    model = session.model.cpu().eval()
    parts = [model.added(ta.from_numpy(inputs[i : i + 64])).detach().numpy() for i in range(0, len(inputs), 64)]
    added = np.concatenate(parts)  # (texts, LENGTH, classes)
    rows, best = np.arange(len(added)), train.predict(model, inputs).argmax(1)
    counted = added[rows, :, best] - added.mean(2)  # beside the mean of the classes, (texts, LENGTH)
    orders = {"the five words that counted most": -counted, "five words at random": ta.rand(*inputs.shape[:2]).numpy()}
    shares = {"nothing erased": float((best == truth).mean())}
    for name, order in orders.items():
        first = np.where(inputs[..., 0] == PADDING, np.inf, order).argsort(1)[:, :5]
        erased = np.zeros(order.shape, bool)
        np.put_along_axis(erased, first, True, 1)
        erased &= inputs[..., 0] != PADDING  # a text may have fewer than five words
        left = erase(ta.from_numpy(inputs), ta.from_numpy(erased)).numpy()
        shares[f"{name} erased"] = float((train.predict(model, left).argmax(1) == truth).mean())
    image_options.table(shares)
    names = list(LIBRARIES.values())
    shown = [*np.flatnonzero(best == truth)[:: max(len(rows) // 9, 1)], *np.flatnonzero(best != truth)[:4]]
    ends = ["recognised" if best[i] == truth[i] else f"taken for {names[best[i]]}" for i in shown]
    items = [(f"{names[truth[i]]}, {end}", texts[i], counted[i]) for i, end in zip(shown, ends, strict=True)]
    (session.run.folder / "attention.html").write_text(
        page("Which words told the library", [about], items), encoding="utf-8"
    )
    print(f"the page is {session.run.folder / 'attention.html'}")
    return shares
