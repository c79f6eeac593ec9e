"""The weight viewer: a diff or a listing as one page that opens from disk and asks no network for anything."""

import base64
import hashlib
import importlib.resources
from html import escape

from llmc.analysis import trace_page
from llmc.diff.files import script_json
from llmc.diff.headline import counts, headline

# A table and a drawing of what the script finds in the data; without it the head is all there is.
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style></head>
<body>
<header><h1>{title}</h1>{head}</header>
<div class="controls">
<label>metric <select id="metric"></select></label>
<label>role <select id="role"></select></label>
<label>search <input id="search" type="search" placeholder="part of a name ( / )" autocomplete="off"></label>
<span id="count" class="quiet"></span>
<button id="save-table" type="button">save the table</button>
</div>
<div id="map"></div>
<div id="legend"></div>
<div class="both">
<div id="tensors" tabindex="0" aria-label="tensors"><table><thead><tr id="head"></tr></thead>\
<tbody id="body"></tbody></table></div>
<aside id="detail"><h2 id="detail-name">no tensor is selected</h2>
<button id="save-row" type="button" hidden>save this row</button><div id="detail-body">\
<p class="quiet">Click a row or a cell of the map; ↑ and ↓ go on from there.</p></div></aside>
</div>
<h2>{totals}</h2>
<div id="aggregates"></div>{trace}
<script type="application/json" id="data">{data}</script>
<script>{script}</script>
</body></html>
"""
_TRACE = "\n<h2>what the changed weights move on a text</h2>\n"


def page(diff):
    """The page of a Diff, as text."""
    summary = diff.summary
    said = headline(summary).partition(f"{summary['tuned']}: ")[2]
    head = (f'<p><span class="looks">{escape(said.partition(";")[0])}</span>'
            f'{escape("".join(said.partition(";")[1:]))}</p><p class="quiet">{escape(counts(summary))}</p>')
    return _whole(f"{summary['base']} → {summary['tuned']}", head + _notes(diff.notes), diff.to_dict(),
                  "what it comes to", diff.trace and _TRACE + trace_page.in_page(diff.trace))  # fmt: skip


def listing_page(listing):
    """The page of a Listing, as text."""
    note = listing.sums().note
    head = f'<p class="quiet">{len(listing.rows):,} tensors, {escape(note)}</p>{_notes(listing.notes)}'
    return _whole(listing.path, head, listing.to_dict(), "totals", None)


def _notes(lines):
    return f'<ul id="notes">{"".join(f"<li>{escape(line)}</li>" for line in lines)}</ul>' if lines else ""


def _whole(title, head, data, totals, trace):
    style, script = (_resource(name) for name in ("viewer.css", "viewer.js"))
    styles = "'unsafe-inline'" if trace else f"'{_hash(style)}'"  # every token of a trace has a colour of its own
    policy = f"default-src 'none'; script-src '{_hash(script)}'; style-src {styles}"
    return _PAGE.format(policy=policy, title=escape(title), style=style, head=head, totals=totals, trace=trace or "",
                        data=script_json(data), script=script)  # fmt: skip


def _resource(name):
    return importlib.resources.files("llmc.diff").joinpath(name).read_text(encoding="utf-8")


def _hash(text):
    """What a Content-Security-Policy calls an element of exactly this text."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
