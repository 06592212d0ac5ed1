"""Tables of text, as commands print them."""

from collections.abc import Container, Sequence


def aligned(rows: Sequence[Sequence[str]], right: Container[int] = ()) -> str:
    """Lines of a table whose columns are as wide as they must be, two spaces apart.

    Args:
        rows: the cells of each line, as many in all.
        right: columns whose cells stand on the right.

    Example:
        >>> print(aligned([("NAME", "N"), ("a", "10"), ("b", "9")], right={1}))
        NAME   N
        a     10
        b      9
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = [str.rjust if column in right else str.ljust for column in range(len(widths))]
    cells = ((side(cell, width) for side, cell, width in zip(sides, row, widths, strict=True)) for row in rows)
    return "\n".join("  ".join(line).rstrip() for line in cells)
