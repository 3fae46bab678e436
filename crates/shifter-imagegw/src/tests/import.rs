//! Imports in a gateway in process: what is stopped, counted, refused and told apart. What files become is tested end to
//! end.

use std::fs::File;

use super::*;
use crate::config::Importers;

async fn start(dir: &Path) -> Gateway {
    start_on(dir, &Place::Sqlite(dir.join("c.db"))).await
}

/// A gateway where everybody may import, and no registry is.
async fn start_on(dir: &Path, place: &Place) -> Gateway {
    let change = |config: &mut Config| config.import.users = Importers::Everybody;
    Gateway::start_as(dir, SocketAddr::from(([127, 0, 0, 1], 1)), 300, place, change).await
}

/// `POST doimport`, as root, who can read everything.
async fn import(gateway: &Gateway, tag: &str, path: &Path, format: &str) -> wire::Image {
    let (api, who) = (gateway.api(), caller(0, &[]));
    let body = serde_json::json!({"filepath": path, "format": format}).to_string();
    let names = ("sysa", "custom", tag);
    api.import(names, &api.config.platforms["sysa"], body.as_bytes(), &who).await.unwrap().image
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_import_stops_copying() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(dir.path()).await;
    // Nothing on disk, and some seconds of copying.
    let path = dir.path().join("large");
    File::create(&path).unwrap().set_len(12 << 30).unwrap();
    import(&gateway, "large:1", &path, "squashfs").await;
    let has_begun = || !gateway.names("expand").is_empty();
    let begun = Instant::now();
    while !has_begun() {
        assert!(begun.elapsed() < Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    gateway.api().cancel("sysa", "custom", "large:1", &caller(0, &[])).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(gateway.names("expand"), [""; 0], "the copy goes on although nobody waits for it");
}
