//! What only a file has: one process, one schema that grew.

use std::time::Duration;

use super::servers::Server;
use super::*;

#[tokio::test]
async fn a_second_gateway_on_the_same_file_is_refused_by_name() {
    let server = Server::sqlite();
    let place = server.place().await;
    let first = open_for_use(&place).await.unwrap();
    for purpose in [Purpose::Use, Purpose::Look] {
        let Err(error) = open(&place, purpose).await else { panic!("{purpose:?}") };
        let expected = format!("in use by process {};", std::process::id());
        assert!(error.to_string().contains(&expected), "{error}");
    }
    first.close().await;
    drop(first);
    open_for_use(&place).await.unwrap();
}

#[tokio::test]
async fn a_killed_gateways_pulls_are_free_at_the_next_start() {
    let server = Server::sqlite();
    let place = server.place().await;
    let catalog = open_for_use(&place).await.unwrap();
    let job = catalog.enter_job(&new_job("a:1", 7)).await.unwrap().unwrap();
    assert!(catalog.claim(job.number, "dead").await.unwrap().is_some_and(|job| job.is_held()));
    drop(catalog);
    let mut again = open_for_use(&place).await;
    for _ in 0..100 {
        if again.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        again = open_for_use(&place).await;
    }
    assert!(again.unwrap().claim(job.number, "alive").await.unwrap().is_some_and(|job| job.fence == 2));
}

#[tokio::test]
async fn a_damaged_job_hides_no_other() {
    let server = Server::sqlite();
    let place = server.place().await;
    let catalog = open_for_use(&place).await.unwrap();
    let damaged = catalog.enter_job(&new_job("a:1", 7)).await.unwrap().unwrap();
    let whole = catalog.enter_job(&new_job("a:1", 8)).await.unwrap().unwrap();
    let Place::Sqlite(path) = &place else { panic!("{place}") };
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
    let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
    let damage = sqlx::query("UPDATE jobs SET uids = 'x' WHERE job = $1").bind(damaged.number);
    damage.execute(&pool).await.unwrap();
    pool.close().await;
    assert_eq!(catalog.unfinished(None).await.unwrap(), [whole]);
}

#[tokio::test]
async fn a_catalog_of_the_first_version_is_brought_up_to_date() {
    let server = Server::sqlite();
    let place = server.place().await;
    let Place::Sqlite(path) = &place else { panic!("{place}") };
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path).create_if_missing(true);
    let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
    let first: Vec<_> = super::super::sql::schema::SQLITE.iter().take(1).cloned().collect();
    sqlx::migrate::Migrator::with_migrations(first).run(&pool).await.unwrap();
    for statement in [
        "INSERT INTO images VALUES ('sysa', 'aa', 'squashfs', '{}', 7, 'ff', 1.5, 2.5)",
        "INSERT INTO tags VALUES ('sysa', 'docker', 'a:1', 'aa')",
        "INSERT INTO grants VALUES ('sysa', 'docker', 'a:1', 'aa', 7, 1, '', '', 9.0)",
    ] {
        sqlx::query(statement).execute(&pool).await.unwrap();
    }
    pool.close().await;

    let Err(error) = open(&place, Purpose::Look).await else { panic!("looked at") };
    assert!(matches!(error, CatalogError::Older { .. }), "{error}");
    let catalog = open_for_use(&place).await.unwrap();
    let (found, grants) = catalog.lookup(&key("a:1")).await.unwrap().unwrap();
    assert_eq!((found.size, grants), (7, vec![grant("a:1", "aa", 7, true)]));
    let mut record = catalog.record("sysa", "aa").await.unwrap().unwrap();
    record.add_tag(Tag { itype: "docker".into(), tag: "b:1".into(), asked: 1.0 });
    assert!(catalog.store(&record).await.unwrap());
    assert_eq!(tags(&*catalog, "sysa").await, [("aa".to_owned(), vec!["a:1".to_owned(), "b:1".to_owned()])]);
}
