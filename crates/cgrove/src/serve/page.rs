//! The live page: its files are in the binary, and it asks nobody but this port.

use http_body_util::Full;
use hyper::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Response, StatusCode};

use super::{Body, Reply};

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const PICTURE: &str = "image/svg+xml";

/// Path, type, content.
const FILES: [(&str, &str, &[u8]); 12] = [
    ("/", HTML, include_bytes!("page/index.html")),
    ("/favicon.ico", PICTURE, include_bytes!("page/icon.svg")),
    ("/page/icon.svg", PICTURE, include_bytes!("page/icon.svg")),
    ("/page/style.css", STYLE, include_bytes!("page/style.css")),
    ("/page/uPlot.min.css", STYLE, include_bytes!("page/uPlot.min.css")),
    ("/page/uPlot.iife.min.js", SCRIPT, include_bytes!("page/uPlot.iife.min.js")),
    ("/page/main.js", SCRIPT, include_bytes!("page/main.js")),
    ("/page/detail.js", SCRIPT, include_bytes!("page/detail.js")),
    ("/page/model.js", SCRIPT, include_bytes!("page/model.js")),
    ("/page/table.js", SCRIPT, include_bytes!("page/table.js")),
    ("/page/wire.js", SCRIPT, include_bytes!("page/wire.js")),
    ("/page/words.js", SCRIPT, include_bytes!("page/words.js")),
];

/// Nothing is loaded from elsewhere, nothing is sent elsewhere, and nobody frames it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Is this path one of the page's files?
pub(super) fn is_file(path: &str) -> bool {
    FILES.iter().any(|(name, ..)| *name == path)
}

/// A file of the page; `None` for any other path.
pub(super) fn file(path: &str) -> Option<Reply> {
    let (_, kind, content) = FILES.iter().find(|(name, ..)| *name == path)?;
    let mut reply = Response::new(Body::Left(Full::from(*content)));
    *reply.status_mut() = StatusCode::OK;
    let headers = reply.headers_mut();
    for (name, value) in [
        (CONTENT_TYPE, *kind),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        // A daemon that was upgraded shows its own page.
        (CACHE_CONTROL, "no-cache"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    Some(reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_that_the_page_names_is_there() {
        for (_, _, content) in FILES.iter().filter(|(_, kind, _)| matches!(*kind, HTML | SCRIPT)) {
            let text = String::from_utf8_lossy(content);
            let named = text.match_indices("/page/").map(|(at, _)| text[at..].split(['"', '\'']).next().unwrap());
            let imported = text.match_indices("from \"./").map(|(at, _)| text[at + 8..].split('"').next().unwrap());
            for path in named.map(str::to_owned).chain(imported.map(|name| format!("/page/{name}"))) {
                assert!(file(&path).is_some(), "{path}");
            }
        }
        assert!(file("/page/uPlot.LICENSE").is_none() && file("/nothing").is_none());
    }
}
