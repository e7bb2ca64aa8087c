"""What a received panel or table may hold: markup that would leave its place, and names that would be markup."""

from __future__ import annotations

# Nothing of these is there; whoever asks for one has left the page.
ELSEWHERE = "http://elsewhere.invalid"
_BODY = """
<title>A title that is shown where the pointer is</title>
<style>@import url({e}/a.css); * {{ display: none }} body {{ background: url({e}/b.png) }}</style>
<defs>
 <path id="mark" d="M 0 0 L 9 9" style="stroke: #1f7fbf"/>
 <g id="many"><use xlink:href="#more"/><use xlink:href="#more"/></g>
 <g id="more"><use xlink:href="#many"/><use xlink:href="#mark"/></g>
 <font-face font-family="theirs"><font-face-src><font-face-uri xlink:href="{e}/c.ttf"/></font-face-src></font-face>
 <filter id="filter"><feImage xlink:href="{e}/d.svg"/></filter>
 <pattern id="pattern" width="1" height="1"><image xlink:href="{e}/e.png"/></pattern>
</defs>
<a xlink:href="{e}/f" href="javascript:document.title='taken'" target="_top"><text x="10" y="40">a link</text></a>
<script>document.title = 'taken'</script>
<script xlink:href="{e}/g.js"/>
<foreignObject x="-5000" y="-5000" width="20000" height="20000">
 <div xmlns="http://www.w3.org/1999/xhtml" style="position: fixed; inset: 0; background: red">over everything</div>
 <iframe xmlns="http://www.w3.org/1999/xhtml" src="{e}/h.html"></iframe>
 <form xmlns="http://www.w3.org/1999/xhtml" action="{e}/i"><input name="theirs"/></form>
</foreignObject>
<image x="0" y="0" width="50" height="50" xlink:href="{e}/j.png"/>
<image x="0" y="0" width="50" height="50" href="data:image/svg+xml,&lt;svg onload='document.title=1'/&gt;"/>
<use xlink:href="{e}/k.svg#theirs"/>
<use xlink:href="#many"/>
<use xlink:href="#mark" x="20" y="20"/>
<use xlink:href="#mark" href="#many"/>
<use/>
<g id="answer" class="answer skip" style="position: fixed; inset: 0; z-index: 9; fill: url({e}/l.svg#p); stroke: red">
 <rect x="-100000" y="-100000" width="1000000" height="1000000" style="fill: #ff0000; pointer-events: all"/>
 <text x="10" y="60" onclick="document.title='taken'" onload="document.title='taken'" tabindex="0"
  style="font-family: theirs, url({e}/m.ttf); font-size: 30px; fill: #303438">shown &lt;b&gt;text\u202e</text>
</g>
<animate attributeName="x" from="0" to="999" begin="0s"/>
<set attributeName="href" to="{e}/n"/>
<path d="M 0 0 L 100 100" style="fill: none; stroke: image({e}/o.png); stroke-width: 2; background: url({e}/p.png)"/>
<path d="M 5 5 L 50 50" style="fill: none; stroke: #1f7fbf" mask="url({e}/q.svg#m)" filter="url(#filter)"/>
"""
SVG = (
    '<?xml version="1.0"?>\n<!DOCTYPE svg [<!ENTITY e "expanded">]>\n'
    '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="90000pt"'
    ' height="90000pt" viewBox="0 0 300 200" onload="document.title=\'taken\'" class="skip" id="filter"'
    ' style="position: fixed; top: 0; left: 0; width: 100vw; height: 100vh; overflow: visible; z-index: 99">'
    f"{_BODY.format(e=ELSEWHERE)}</svg>"
    f'<div style="position: fixed; inset: 0">after the figure</div><img src="{ELSEWHERE}/r.png">'
)
# Figures that are no one figure in a box that a page can have.
UNFIT = {
    "thread": '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 100000"><path d="M 0 0 L 1 1"/></svg>',
    "no box": '<svg xmlns="http://www.w3.org/2000/svg" width="10" height="10"><path d="M 0 0 L 1 1"/></svg>',
    "endless box": '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1e999 1"><path d="M 0 0 L 1 1"/></svg>',
    "two": '<svg viewBox="0 0 9 9"></svg><svg viewBox="0 0 9 9"></svg>',
    "one in another": '<svg viewBox="0 0 9 9"><svg viewBox="0 0 9 9"></svg></svg>',
    "no figure": "<html><body>a page</body></html>",
    "nothing": "",
    "left early": '<svg viewBox="0 0 9 9"><p>a paragraph</p><path d="M 0 0"/></svg>',
    "much to draw": '<svg viewBox="0 0 9 9"><path id="m" d="M{}"/>{}</svg>'.format(
        " 1 1" * 30_000, '<use xlink:href="#m"/>' * 600
    ),
}
# Names, notes and values as somebody else may have written them.
MARKUP = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>'\"&lt;"
NAMES = {
    "markup": MARKUP,
    "template": "{{ 7 * 7 }}{% raw %}",
    "turned": "theirs \u202egnp.exe\u2066\u0007\u001b[2J",
    "long": "very-long-" * 300,
    "markdown": f"a|b `code` [link]({ELSEWHERE}) ![picture]({ELSEWHERE}) <b>bold</b> \\| end\nnext",
    "latex": r"\input{/etc/hostname} $x$ % & # _ ^ ~ \\",
}
