//! What this program needs of `udiRoot.conf`: the gateways, the system's name and three small things.
//!
//! The whole file is parsed, so that an error in it reads the same here as in the runtime; but helper programs
//! and owners are not checked, so that the program also works in a user namespace, where root's files seem to
//! belong to nobody. The path is fixed at build time, as the runtime's.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use shifter_api::client::ClientConfig;
use shifter_core::image_type::ImageType;
use shifter_core::paths::{SYSCONFDIR, UDIROOT_CONF};
use shifter_core::udiroot::UdiRootConf;

/// Most bytes of the file that are read.
const MAX_BYTES: u64 = 1024 * 1024;

/// What was found.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Gateways, system and time limit.
    pub(crate) client: ClientConfig,
    /// `defaultImageType`
    pub(crate) default_image_type: Option<ImageType>,
}

/// Reads the configuration from its place.
pub(crate) fn load() -> anyhow::Result<Settings> {
    let path = Path::new(SYSCONFDIR).join(UDIROOT_CONF);
    read(&path).with_context(|| format!("cannot use the configuration {}", path.display()))
}

fn read(path: &PathBuf) -> anyhow::Result<Settings> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    ensure!(bytes.len() as u64 <= MAX_BYTES, "it is larger than {MAX_BYTES} bytes");
    settings(&String::from_utf8(bytes).context("it is not UTF-8 text")?)
}

fn settings(text: &str) -> anyhow::Result<Settings> {
    let conf = UdiRootConf::parse(text)?;
    ensure!(!conf.system.is_empty(), "\"system\" is not set; the gateway keeps images by system");
    ensure!(!conf.image_gateway.is_empty(), "\"imageGateway\" is not set, e.g. to http://localhost:5000");
    let client = ClientConfig {
        gateways: conf.image_gateway,
        system: conf.system,
        // 0 is how the file says "no limit".
        timeout: Some(Duration::from_secs(conf.gateway_timeout_seconds)).filter(|limit| !limit.is_zero()),
        ca_bundle: None,
    };
    Ok(Settings { client, default_image_type: conf.default_image_type })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn the_clients_keys_are_taken_over() {
        let found = settings(
            "imagePath=/images\nsystem=sysa\nimageGateway=http://a:5000 http://b:5000\n\
             gatewayTimeout=30\ndefaultImageType=docker\n",
        )
        .unwrap();
        assert_eq!(found.client.gateways, ["http://a:5000", "http://b:5000"]);
        assert_eq!(found.client.system, "sysa");
        assert_eq!(found.client.timeout, Some(Duration::from_secs(30)));
        assert_eq!(found.default_image_type, Some(ImageType::Docker));
        let bare = settings("imagePath=/images\nsystem=s\nimageGateway=http://a\n").unwrap();
        assert_eq!((bare.client.timeout, bare.default_image_type), (None, None));
    }

    #[test]
    fn what_is_missing_is_named() {
        for (text, expected) in [
            ("imagePath=/i\nimageGateway=http://a\n", "system"),
            ("imagePath=/i\nsystem=s\n", "imageGateway"),
            ("imagePath=/i\nsystem=s\nimageGatway=http://a\n", "imageGateway"),
        ] {
            let error = settings(text).unwrap_err();
            assert!(format!("{error:#}").contains(expected), "{text}: {error:#}");
        }
        let error = read(&PathBuf::from("/nonexistent/udiRoot.conf")).unwrap_err();
        assert!(error.to_string().contains("No such file"), "{error}");
    }
}
