//! A configuration, with an environment after a line `---`, is taken or refused with words; what is taken is usable.
#![no_main]

use std::path::Path;
use std::time::Duration;

use cgrove_config::{check_reach, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (file, environment) = text.split_once("\n---\n").unwrap_or((text, ""));
    let variables = environment.lines().filter_map(|l| l.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned()));
    match parse(file, "cgrove.toml", Path::new("/etc/cgrove"), variables) {
        Err(e) => assert!(!e.to_string().is_empty()),
        Ok(config) => {
            assert!(!config.node.is_empty() && !config.server.listen.is_empty());
            assert!(config.usage.keep >= Duration::from_secs(1) && config.tasks.interval >= Duration::from_millis(100));
            assert!(check_reach(&config.server).is_ok());
            assert!(config.tree.state_dir.is_absolute());
            // Secrets do not print.
            for auth in &config.zookeeper.auth {
                let shown = format!("{:?}", auth.credential);
                assert!(shown == "***" || shown.starts_with("file ") || shown.starts_with("credential "));
            }
        }
    }
});
