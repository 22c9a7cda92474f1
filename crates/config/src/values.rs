//! What the sections share: durations, sizes, secrets' files, TLS of a client.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{ClientTls, Secret};

/// A setting and what is wrong with it.
pub(crate) type Bad = (&'static str, String);

/// A duration of at least `least`.
pub(crate) fn duration(
    name: &'static str,
    text: Option<String>,
    default: Duration,
    least: Duration,
) -> Result<Duration, Bad> {
    let Some(text) = text else { return Ok(default) };
    let parsed = humantime::parse_duration(&text)
        .map_err(|_| (name, format!("{text:?} is not a duration such as \"30s\" or \"5m\"")))?;
    if parsed < least {
        return Err((name, format!("{text:?} is less than {}", humantime::format_duration(least))));
    }
    Ok(parsed)
}

/// A size such as `64M`.
pub(crate) fn bytes(text: &str) -> Option<usize> {
    let json = cgrove_core::json::Json::String(text.into());
    match cgrove_core::knobs::parse_value(cgrove_core::knobs::Kind::Bytes, &json) {
        Ok(cgrove_core::knobs::Value::Bytes(n)) => usize::try_from(n).ok(),
        _ => None,
    }
}

/// Authority, certificate, key.
pub(crate) fn client_tls(
    name: &'static str,
    files: [Option<PathBuf>; 3],
    base: &Path,
) -> Result<Option<ClientTls>, Bad> {
    let [ca, certificate, key] = files.map(|file| file.map(|path| base.join(path)));
    match (ca, certificate, key) {
        (None, None, None) => Ok(None),
        (None, ..) => {
            Err((name, "is needed beside tls_certificate and tls_key: who signed the server's certificate".into()))
        }
        (Some(_), Some(_), None) | (Some(_), None, Some(_)) => {
            Err((name, "tls_certificate and tls_key are set together or not at all".into()))
        }
        (Some(ca), certificate, key) => Ok(Some(ClientTls { ca, identity: certificate.zip(key) })),
    }
}

/// A secret's file; below `$CREDENTIALS_DIRECTORY` it is one that systemd passes.
pub(crate) fn secret_file(base: &Path, path: &Path) -> Secret {
    match path.strip_prefix("$CREDENTIALS_DIRECTORY") {
        Ok(name) => Secret::Credential(name.to_owned()),
        Err(_) => Secret::File(base.join(path)),
    }
}
