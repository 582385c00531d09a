"""How PHP reads a form, and how Moodle's REST server and nginx respond (as recorded)."""

import codecs
import html
import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Any
from urllib.parse import parse_qsl

from starlette.responses import Response

from worker.sandbox.moodle.session import WebServiceError

HTML = "text/html; charset=utf-8"


class Fault(StrEnum):
    """What can go wrong with a call: with each one as `moodle.fault`, or at random by `moodle.chaos`."""

    MAINTENANCE_CLI = "maintenance_cli"
    MAINTENANCE_SETTING = "maintenance_setting"
    WEBSERVICES_DISABLED = "webservices_disabled"
    DATABASE_DOWN = "database_down"
    PHP_DOWN = "php_down"  # 502, nothing was applied
    TOO_MANY_CALLS = "too_many_calls"  # 429 of a proxy that counts calls
    LOGIN_PAGE = "login_page"  # 200 and a page of a proxy
    REDIRECTED = "redirected"  # to `moodle.elsewhere`
    INVALID_TOKEN = "invalid_token"  # noqa: S105 # not a password: the name of the recorded case
    NOT_GRANTED = "not_granted"
    ACCOUNT_SUSPENDED = "account_suspended"  # the service account
    POLICY_NOT_AGREED = "policy_not_agreed"  # by the service account: only the site's information is given
    PASSWORD_TO_CHANGE = "password_to_change"  # noqa: S105 # the same, of a forced change
    FIREWALL = "firewall"  # 403 and a page
    SIGN_IN = "sign_in"  # 401 of the web server
    WRITE_REFUSED = "write_refused"  # dmlwriteexception, nothing was applied; a read-only database says so to all calls
    READ_REFUSED = "read_refused"  # dmlreadexception
    UNKNOWN_CODE = "unknown_code"  # an errorcode of some plugin
    RATE_LIMITED = "rate_limited"  # 200 and an error that isn't in Moodle's form, nothing was applied
    APPLIED_THEN_502 = "applied_then_502"  # PHP died after the commit
    APPLIED_THEN_CLOSED = "applied_then_closed"  # the connection closes in the middle of the response
    APPLIED_THEN_LATE = "applied_then_late"  # the response comes after `moodle.late` seconds
    APPLIED_THEN_EMPTY = "applied_then_empty"  # 200 without a body
    APPLIED_THEN_STRANGE = "applied_then_strange"  # unexpected JSON
    APPLIED_THEN_PRINTED = "applied_then_printed"  # a notice of PHP's comes before the response
    APPLIED_THEN_MARKED = "applied_then_marked"  # a byte-order mark comes before the response
    APPLIED_THEN_DRIPPED = "applied_then_dripped"  # the response comes byte by byte, one every `moodle.drip` seconds


ERRORS = {  # faults that Moodle itself reports, after which nothing is applied
    Fault.DATABASE_DOWN: "dbconnectionfailed",
    Fault.MAINTENANCE_SETTING: "sitemaintenance",
    Fault.INVALID_TOKEN: "invalidtoken",
    Fault.NOT_GRANTED: "accessexception",
    Fault.ACCOUNT_SUSPENDED: "wsaccessusersuspended",
    Fault.READ_REFUSED: "dmlreadexception",
    Fault.WRITE_REFUSED: "dmlwriteexception",
    Fault.POLICY_NOT_AGREED: "sitepolicynotagreed",
    Fault.PASSWORD_TO_CHANGE: "forcepasswordchangenotice",
    Fault.UNKNOWN_CODE: "pluginrefuses",
}
IN_FUNCTIONS = {"sitepolicynotagreed", "forcepasswordchangenotice"}
"""Errors that `require_login` raises inside functions: none reads the site's information, and adding hides them."""
NOTICE = (
    b"<br />\n<b>Notice</b>:  Undefined variable: level in <b>/var/www/moodle/local/levels/classes/observer.php</b>"
    b" on line <b>12</b><br />\n"
)
"""What PHP prints before an answer when its errors, or Moodle's debugging, are displayed."""


def bad_gateway() -> Response:
    """Return nginx's page for a PHP-FPM that doesn't respond."""
    page = (
        "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n"
        "<center><h1>502 Bad Gateway</h1></center>\r\n<hr><center>nginx/1.22.1</center>\r\n"
        "</body>\r\n</html>\r\n"
    )
    return Response(page, 502, {"content-type": "text/html"})


def page_of(fault: Fault | None, site_name: str, elsewhere: str) -> Response | None:  # noqa: PLR0911 - a page each
    """Return the page of a fault that never reaches the web service; `elsewhere` is the target of a redirection."""
    match fault:
        case Fault.MAINTENANCE_CLI:
            title = f"{html.escape(site_name)} under maintenance"
            page = f'<!DOCTYPE html> <html lang="en"><head><title>{title}</title></head><body></body></html>'
            return Response(page, 503, {"content-type": HTML, "retry-after": "300"})
        case Fault.WEBSERVICES_DISABLED:
            return Response("", 403, {"content-type": HTML})
        case Fault.FIREWALL:
            return Response("<html>Attention Required!</html>", 403, {"content-type": HTML})
        case Fault.SIGN_IN:
            return Response("", 401, {"content-type": HTML, "www-authenticate": 'Basic realm="Moodle"'})
        case Fault.RATE_LIMITED:
            return Response('{"error":"Rate limit exceeded","errorcode":"ratelimit"}', media_type="application/json")
        case Fault.PHP_DOWN:
            return bad_gateway()
        case Fault.TOO_MANY_CALLS:
            return Response("", 429, {"content-type": HTML, "retry-after": "60"})
        case Fault.LOGIN_PAGE:
            form = '<form method="post"><input name="username"><input name="password" type="password"></form>'
            return Response(f"<!DOCTYPE html>\n<html><body>{form}</body></html>\n", headers={"content-type": HTML})
        case Fault.REDIRECTED:
            return Response("", 307, {"location": elsewhere})
    return None


def altered(response: Response, fault: Fault | None) -> Response:
    """Return the response of an applied call as it comes out of a server with this fault."""
    body = bytes(response.body)
    match fault:
        case Fault.APPLIED_THEN_EMPTY:
            body = b""
        case Fault.APPLIED_THEN_STRANGE:
            body = b'{"status":"success"}'
        case Fault.APPLIED_THEN_PRINTED:
            body = NOTICE + body
        case Fault.APPLIED_THEN_MARKED:
            body = codecs.BOM_UTF8 + body
        case _:
            return response
    return Response(body, media_type=response.media_type)


def read_form(encoded: bytes, limit: int) -> dict[str, Any]:
    """Decode `a[0][b]=c` into nested dicts as PHP does; fields beyond `limit` are dropped silently.

    `a[]` appends. Names with unbalanced brackets are kept flat.
    """
    form: dict[str, Any] = {}
    for name, value in parse_qsl(encoded.decode("latin-1"), keep_blank_values=True)[:limit]:
        head, _, rest = name.partition("[")
        keys = rest[:-1].split("][") if rest.endswith("]") else []
        node, last = form, head if keys else name
        for key in keys:
            child = node.get(last)
            if not isinstance(child, dict):
                child = node[last] = {}
            node, last = child, key or str(len(child))
        node[last] = value
    return form


def success(value: object, *, as_json: bool) -> Response:
    """Return the response that carries the result of a function."""
    if as_json:
        return Response(php_json(value), media_type="application/json")
    return _xml(f"<RESPONSE>\n{_element(value) if value is not None else ''}</RESPONSE>\n")


def failure(error: WebServiceError, *, as_json: bool) -> Response:
    """Return the response that carries an error, with status 200; in XML if the field asking for JSON was dropped."""
    if as_json:
        body = {"exception": error.exception, "errorcode": error.code, "message": error.message}
        return Response(php_json(body), media_type="application/json")
    return _xml(
        f'<EXCEPTION class="{error.exception}">\n<ERRORCODE>{_escape(error.code)}</ERRORCODE>\n'
        f"<MESSAGE>{_escape(error.message)}</MESSAGE>\n</EXCEPTION>\n"
    )


def php_json(value: object) -> str:
    r"""Encode as PHP's json_encode does: ASCII only, no spaces, and `/` as `\/`."""
    return json.dumps(value, separators=(",", ":")).replace("/", "\\/")


def _xml(content: str) -> Response:
    body = f'<?xml version="1.0" encoding="UTF-8" ?>\n{content}'
    return Response(body, headers={"content-type": "application/xml; charset=utf-8"})


def _element(value: object) -> str:
    if isinstance(value, list):
        return f"<MULTIPLE>\n{''.join(map(_element, value))}</MULTIPLE>\n"
    if isinstance(value, Mapping):
        keys = (f'<KEY name="{key}">{_element(item)}</KEY>\n' for key, item in value.items())
        return f"<SINGLE>\n{''.join(keys)}</SINGLE>\n"
    return f"<VALUE>{_escape(str(int(value) if isinstance(value, bool) else value))}</VALUE>\n"


def _escape(text: str) -> str:
    return html.escape(text).replace("&#x27;", "'")
