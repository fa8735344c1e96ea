"""Lets long names in tables wrap between their words: ``stable_baselines3.SAC`` after ``_`` and ``.``, before capitals."""

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform

_BETWEEN_WORDS = re.compile(r"(?<=[_./=,])(?=[^\W\d])|(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


class BreakableNames(SphinxPostTransform):
    """Puts ``<wbr>`` there, which is not copied with the name as a space of no width would be."""

    default_priority = 900
    formats = ("html",)

    def run(self, **kwargs: Any) -> None:
        for cell in self.document.findall(nodes.entry):
            for name in list(cell.findall(nodes.literal)):
                first, *others = _BETWEEN_WORDS.split(name.astext())
                name.children = []
                name += nodes.Text(first)
                for word in others:
                    name += [nodes.raw("", "<wbr>", format="html"), nodes.Text(word)]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_post_transform(BreakableNames)
    return {"parallel_read_safe": True}
