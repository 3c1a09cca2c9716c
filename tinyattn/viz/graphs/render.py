"""Pictures by `dot`, through the graphviz package."""

from __future__ import annotations

GET_DOT = (
    "drawing needs the program `dot`: apt-get install graphviz, brew install graphviz, or graphviz.org/download. "
    "Without it there are .dot and .html, which needs nothing."
)


def rendered(dot: str, kind: str) -> bytes:
    """`dot`'s picture of DOT text: "svg", "png" or "pdf".

    Raises ImportError without the graphviz package and RuntimeError without the program, each in one line.
    """
    try:
        import graphviz
    except ImportError:
        raise ImportError('pictures of graphs need the graphviz package: pip install "tinyattn[viz]"') from None
    source = graphviz.Source(dot, engine="dot")
    try:
        return bytes(source.pipe(format=kind))
    except graphviz.ExecutableNotFound:
        raise RuntimeError(GET_DOT) from None
    except graphviz.CalledProcessError as error:
        raise RuntimeError(f"dot could not draw this graph: {error.stderr.decode(errors='replace').strip()}") from None
