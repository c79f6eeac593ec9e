"""A reader of pages, for tests: it collects what is on one, and fails where a tag does not close."""

import html.parser


class Page(html.parser.HTMLParser):
    """The tags, texts and attributes of a page, in their order."""

    EMPTY = ("meta", "input", "wbr", "br", "img")

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.texts = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)
