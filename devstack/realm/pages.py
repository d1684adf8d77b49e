"""The three small pages a person sees. Everything that varies is escaped; nothing needs a script or another file."""

from __future__ import annotations

from html import escape

from starlette.responses import HTMLResponse

WARNING = "Development identity provider: demo passwords in plain text, never for production"

_HEADERS = {
    "Cache-Control": "no-store",
    # No form-action: browsers apply it to the redirect back to the client too.
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'",
    # Not no-referrer: browsers would then send `Origin: null` with our own forms.
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}

_STYLE = """
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 26rem; margin: 3rem auto; padding: 0 1rem; color: #1b1b1b; }
label { display: block; margin-top: 1rem; }
input { font: inherit; width: 100%; padding: .5rem; box-sizing: border-box; }
button { font: inherit; margin-top: 1.5rem; padding: .5rem 1.5rem; }
.warning { border-left: .4rem solid #b35900; padding: .2rem .8rem; background: #fff4e5; }
[role=alert] { border-left: .4rem solid #b00020; padding: .2rem .8rem; background: #fdecee; }
"""


def login_page(client_name: str, csrf: str, *, failed_user: str | None = None) -> HTMLResponse:
    """The form; it posts to the address it came from, which carries the authorization request."""
    failed = failed_user is not None
    alert = '<p role="alert" id="problem">Wrong user name or password.</p>' if failed else ""
    broken = ' aria-invalid="true" aria-describedby="problem"' if failed else ""
    username = escape(failed_user or "")
    body = f"""{alert}
<form method="post">
<input type="hidden" name="csrf" value="{escape(csrf)}">
<label for="username">User name</label>
<input id="username" name="username" autocomplete="username" required autofocus{broken} value="{username}">
<label for="password">Password</label>
<input id="password" name="password" type="password" autocomplete="current-password" required{broken}>
<button type="submit">Log in</button>
</form>"""
    return _page(f"Log in to {client_name}", body, 401 if failed else 200)


def confirm_logout_page(csrf: str) -> HTMLResponse:
    body = f"""<p>This ends your session at all applications of this realm.</p>
<form method="post">
<input type="hidden" name="csrf" value="{escape(csrf)}">
<button type="submit">Log out</button>
</form>"""
    return _page("Log out?", body)


def message_page(title: str, text: str, status: int = 200) -> HTMLResponse:
    return _page(title, f"<p>{escape(text)}</p>", status)


def front_page(realm: str, issuer: str) -> HTMLResponse:
    discovery = escape(f"{issuer}/.well-known/openid-configuration")
    return _page(f"Realm {realm}", f'<p><a href="{discovery}">{discovery}</a></p>')


def _page(title: str, body: str, status: int = 200) -> HTMLResponse:
    html = f"""<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>
<style>{_STYLE}</style></head>
<body>
<p class="warning"><strong>{WARNING}.</strong></p>
<main>
<h1>{escape(title)}</h1>
{body}
</main>
</body>
</html>"""
    return HTMLResponse(html, status, _HEADERS)
