"""The style of a page, and of what a notebook shows: all of it below the class "llmc"."""

from llmc.show.colours import COOL, GREY, INK, LINE, MARK, PALE

STYLE = f"""
.llmc {{ font: 14px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; color: {INK}; }}
.llmc h1 {{ font-size: 26px; margin: 0 0 2px; }}
.llmc h2 {{ font-size: 17px; margin: 34px 0 8px; }}
.llmc p {{ margin: 4px 0 14px; max-width: 72ch; }}
.llmc .quiet {{ color: {GREY}; }}
.llmc table {{ border-collapse: separate; border-spacing: 2px; }}
.llmc img.whole {{ display: block; max-width: 100%; height: auto; margin: 6px 0 2px; }}
.llmc .wide {{ overflow-x: auto; }}
.llmc .map th {{
  font-weight: 500; font-size: 12px; color: {INK}; padding: 0 4px 4px; text-align: center;
  vertical-align: bottom; background: none; max-width: 84px; overflow-wrap: anywhere;
}}
.llmc .map th.layer {{
  text-align: right; color: {GREY}; padding: 0 8px 0 0; vertical-align: middle;
  font-variant-numeric: tabular-nums;
}}
.llmc .map td {{
  min-width: 58px; height: 25px; padding: 0 4px; text-align: center; font-size: 12px; border-radius: 3px;
  position: relative; font-variant-numeric: tabular-nums;
}}
.llmc .map td:hover {{ outline: 2px solid {INK}; }}
.llmc .map td.bold, .llmc .map th.bold {{ font-weight: 700; }}
.llmc .map tfoot td {{ color: {MARK}; font-size: 11px; height: auto; white-space: nowrap; }}
.llmc .map tfoot td:hover {{ outline: none; }}
.llmc .corner::after {{
  content: ""; position: absolute; top: 0; right: 0; border: 5px solid;
  border-color: {MARK} {MARK} transparent transparent; border-top-right-radius: 3px;
}}
.llmc td.gone {{ background: {PALE}; color: {MARK}; font-weight: 700; box-shadow: inset 0 0 0 1.5px {MARK}; }}
.llmc td.skipped {{ background: repeating-linear-gradient(135deg, #fff 0 4px, {LINE} 4px 6px); }}
.llmc .key {{
  display: flex; flex-wrap: wrap; gap: 6px 22px; align-items: center; margin: 10px 0 0; font-size: 12px;
  color: {GREY};
}}
.llmc .key td {{
  min-width: 26px; height: 18px; position: relative; border-radius: 3px; text-align: center; line-height: 1;
}}
.llmc .scale {{ position: relative; width: 240px; height: 12px; border-radius: 3px; margin: 0 14px 18px; }}
.llmc .scale span {{ position: absolute; top: 14px; transform: translateX(-50%); }}
.llmc .plain {{ border-spacing: 0; font-size: 13px; }}
.llmc .plain th, .llmc .plain td {{
  padding: 3px 14px 3px 0; border-bottom: 1px solid {LINE}; text-align: left; background: none;
  white-space: nowrap;
}}
.llmc .plain td.number {{ text-align: right; font-variant-numeric: tabular-nums; }}
.llmc ul.values {{ color: {MARK}; padding-left: 18px; }}
.llmc details {{ margin: 8px 0; }}
.llmc summary {{ cursor: pointer; font-weight: 600; }}
.llmc code, .llmc pre {{ font: 12.5px/1.6 ui-monospace, "DejaVu Sans Mono", monospace; white-space: pre-wrap; }}
.llmc .tabs > input {{ position: absolute; opacity: 0; }}
.llmc .tabs > label {{
  display: inline-block; padding: 4px 12px; margin: 0 4px 14px 0; border: 1px solid {LINE}; border-radius: 16px;
  cursor: pointer;
}}
.llmc .tabs > input:checked + label {{ background: {COOL}; border-color: {COOL}; color: #fff; }}
.llmc .tabs > input:focus-visible + label {{ outline: 2px solid {INK}; }}
.llmc .tabs > section {{ display: none; }}
"""
