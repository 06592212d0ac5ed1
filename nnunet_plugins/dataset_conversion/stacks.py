"""Files whose pages are images of their own: a case for each page."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from nnunet_plugins.dataset_conversion.dataset import Case
from nnunet_plugins.dataset_conversion.readers import count_pages
from nnunet_plugins.dataset_conversion.readers.pages import page_path
from nnunet_plugins.dataset_conversion.source import Source


def separate_pages(cases: Iterable[Case], source: Source) -> Iterator[Case]:
    """Make a case of each page of a case's files, in one group.

    Files with other numbers of pages than the first are a problem of the source.
    """
    for case in cases:
        first, *others = (*case.images, *(case.label or ()))
        number = count_pages(first)
        if unlike := [path for path in others if count_pages(path) != number]:
            source.problem(
                f"{first} has {number} pages, but {unlike[0]} has {count_pages(unlike[0])}: images and masks must have "
                "the same number"
            )
        elif number == 1:
            yield case
        else:
            for page in range(1, number + 1):
                yield replace(
                    case,
                    name=f"{case.name}_{page:0{len(str(number))}}",
                    images=tuple(page_path(path, page) for path in case.images),
                    label=None if case.label is None else tuple(page_path(path, page) for path in case.label),
                    group=case.group or case.name,
                )
