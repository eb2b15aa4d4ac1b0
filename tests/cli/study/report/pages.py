"""What a page holds, read as a browser would."""

from html.parser import HTMLParser

__all__ = ["Page", "alts", "contrast", "luminance"]


class Page(HTMLParser):
    """The elements of a page in order, with their attributes and text."""

    VOID = ("meta", "img", "br", "link", "use", "path", "rect")

    def __init__(self, text):
        super().__init__()
        self.elements, self._open = [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        element = {"tag": tag, "text": "", **dict(attributes)}
        self.elements.append(element)
        if tag not in self.VOID:
            self._open.append(element)

    def handle_startendtag(self, tag, attributes):
        self.elements.append({"tag": tag, "text": "", **dict(attributes)})

    def handle_endtag(self, tag):
        while self._open and self._open.pop()["tag"] != tag:
            pass

    def handle_data(self, data):
        for element in self._open:
            element["text"] += data

    def all(self, tag):
        return [e for e in self.elements if e["tag"] == tag]

    def rows(self):
        """The result table's cells, row by row."""
        rows = []
        inside = False
        for e in self.elements:
            if e["tag"] == "table":
                inside = "data-sortable" in e
            if inside and e["tag"] == "tr":
                rows.append([])
            if inside and e["tag"] in ("th", "td"):
                rows[-1].append(e)
        return rows


def alts(parsed):
    """The text alternatives of the figures, by the name their ids begin with."""
    return [e["aria-label"] for e in parsed.all("svg")]


def luminance(colour):
    """Relative luminance of WCAG 2."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
