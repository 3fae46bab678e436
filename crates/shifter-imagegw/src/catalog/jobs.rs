//! The catalog's jobs: from a request to its told end. One row per caller and tag.

use shifter_api::wire::render_id_list;

use super::rows::{self, Operation, job};
use super::{Catalog, CatalogError, NewJob, Submitted};
use crate::model::{Grant, Image, Job, JobStatus, now};

/// Most unfinished pulls in all; beyond that a caller is asked to come back.
const MOST_UNFINISHED: i64 = 1000;

/// Most unfinished pulls of one caller, so that nobody can fill the gateway alone.
const MOST_OF_ONE_CALLER: i64 = 100;

/// How long the end of a pull waits to be told at least, however small `PullUpdateTimeout` is.
const LEAST_TELLING_SECONDS: f64 = 60.0;

impl Catalog {
    /// Enters a pull, or finds the caller's earlier one. `fresh` says that the tag needs no asking;
    /// `telling` is how long, in seconds, the end of an earlier pull is worth telling; `is_shared`
    /// says whether several clients of the caller wait for that end, so that it is kept for the others.
    pub(crate) async fn submit(
        &self,
        new: &NewJob,
        fresh: bool,
        telling: f64,
        is_shared: &(dyn Fn(i64) -> bool + Sync),
    ) -> Result<Submitted, CatalogError> {
        const DOING: &str = "entering a pull";
        let now = now();
        let mut tx = self.begin().await?;
        let earlier =
            sqlx::query("SELECT * FROM jobs WHERE system = ? AND itype = ? AND tag = ? AND uid = ?")
                .bind(&new.key.system)
                .bind(&new.key.itype)
                .bind(&new.key.tag)
                .bind(new.uid)
                .fetch_optional(&mut *tx)
                .await
                .during(DOING)?;
        if let Some(mut earlier) = earlier.as_ref().map(job).transpose()? {
            if !earlier.status.is_over() {
                if earlier.acl != new.acl {
                    sqlx::query("UPDATE jobs SET uids = ?, gids = ? WHERE job = ?")
                        .bind(render_id_list(&new.acl.uids))
                        .bind(render_id_list(&new.acl.gids))
                        .bind(earlier.number)
                        .execute(&mut *tx)
                        .await
                        .during(DOING)?;
                    earlier.acl = new.acl.clone();
                    tx.commit().await.during(DOING)?;
                }
                return Ok(Submitted::Going(earlier));
            }
            let is_worth_telling =
                earlier.acl == new.acl && now - earlier.updated < telling.max(LEAST_TELLING_SECONDS);
            if is_worth_telling && is_shared(earlier.number) {
                return Ok(Submitted::Over(earlier));
            }
            sqlx::query("DELETE FROM jobs WHERE job = ?")
                .bind(earlier.number)
                .execute(&mut *tx)
                .await
                .during(DOING)?;
            if is_worth_telling {
                tx.commit().await.during(DOING)?;
                return Ok(Submitted::Over(earlier));
            }
        }
        if fresh {
            tx.commit().await.during(DOING)?;
            return Ok(Submitted::Fresh);
        }
        let (unfinished, own): (i64, i64) = sqlx::query_as(
            "SELECT count(*), count(CASE WHEN uid = ? THEN 1 END) FROM jobs \
             WHERE status NOT IN ('READY', 'FAILURE')",
        )
        .bind(new.uid)
        .fetch_one(&mut *tx)
        .await
        .during(DOING)?;
        if unfinished >= MOST_UNFINISHED || own >= MOST_OF_ONE_CALLER {
            return Ok(Submitted::TooMany);
        }
        let row = sqlx::query(
            "INSERT INTO jobs (system, itype, tag, uid, gid, uids, gids, status, message, with_credentials, \
             created, updated) VALUES (?, ?, ?, ?, ?, ?, ?, 'INIT', '', ?, ?, ?) RETURNING *",
        )
        .bind(&new.key.system)
        .bind(&new.key.itype)
        .bind(&new.key.tag)
        .bind(new.uid)
        .bind(new.gid)
        .bind(render_id_list(&new.acl.uids))
        .bind(render_id_list(&new.acl.gids))
        .bind(new.with_credentials)
        .bind(now)
        .bind(now)
        .fetch_one(&mut *tx)
        .await
        .during(DOING)?;
        let started = job(&row)?;
        tx.commit().await.during(DOING)?;
        Ok(Submitted::Started(started))
    }

    /// Moves a job on. A job that is over stays over.
    pub(crate) async fn set_status(
        &self,
        number: i64,
        status: JobStatus,
        message: &str,
    ) -> Result<(), CatalogError> {
        sqlx::query(
            "UPDATE jobs SET status = ?, message = ?, updated = ? \
             WHERE job = ? AND status NOT IN ('READY', 'FAILURE')",
        )
        .bind(status.as_str())
        .bind(message)
        .bind(now())
        .bind(number)
        .execute(&self.pool)
        .await
        .during("moving a pull on")?;
        Ok(())
    }

    /// Notes that the registry gives the job's tag to everybody, so others may see it in the queue.
    pub(crate) async fn set_public(&self, number: i64) -> Result<(), CatalogError> {
        sqlx::query("UPDATE jobs SET public = 1 WHERE job = ?")
            .bind(number)
            .execute(&self.pool)
            .await
            .during("noting that a tag is public")?;
        Ok(())
    }

    /// One job by number.
    pub(crate) async fn job(&self, number: i64) -> Result<Option<Job>, CatalogError> {
        let row = sqlx::query("SELECT * FROM jobs WHERE job = ?")
            .bind(number)
            .fetch_optional(&self.pool)
            .await
            .during("reading a pull")?;
        row.as_ref().map(job).transpose()
    }

    /// Unfinished jobs, of one system or of all, oldest first.
    pub(crate) async fn unfinished(&self, system: Option<&str>) -> Result<Vec<Job>, CatalogError> {
        let rows = sqlx::query(
            "SELECT * FROM jobs WHERE status NOT IN ('READY', 'FAILURE') AND (?1 IS NULL OR system = ?1) \
             ORDER BY job",
        )
        .bind(system)
        .fetch_all(&self.pool)
        .await
        .during("reading the queue")?;
        rows.iter().map(job).collect()
    }

    /// Forgets ends of pulls that nobody came back for.
    pub(crate) async fn forget_ends_before(&self, before: f64) -> Result<(), CatalogError> {
        sqlx::query("DELETE FROM jobs WHERE status IN ('READY', 'FAILURE') AND updated < ?")
            .bind(before)
            .execute(&self.pool)
            .await
            .during("forgetting old pulls")?;
        Ok(())
    }

    /// Ends a job well: image, the digest it was made from, tag, all of the image's grants and the job,
    /// in one transaction. False,
    /// and nothing changed, if the job's access list is no longer the one in `job`.
    pub(crate) async fn complete(
        &self,
        job: &Job,
        digest: &str,
        image: &Image,
        grants: &[Grant],
    ) -> Result<bool, CatalogError> {
        const DOING: &str = "completing a pull";
        let mut tx = self.begin().await?;
        let done = sqlx::query(
            "UPDATE jobs SET status = 'READY', message = '', updated = ? \
             WHERE job = ? AND uids = ? AND gids = ? AND status NOT IN ('READY', 'FAILURE')",
        )
        .bind(now())
        .bind(job.number)
        .bind(render_id_list(&job.acl.uids))
        .bind(render_id_list(&job.acl.gids))
        .execute(&mut *tx)
        .await
        .during(DOING)?;
        if done.rows_affected() == 0 {
            return Ok(false);
        }
        rows::put_image(&mut tx, image).await.during(DOING)?;
        sqlx::query(
            "INSERT INTO digests (system, digest, id) VALUES (?, ?, ?) \
             ON CONFLICT (system, digest) DO UPDATE SET id = excluded.id",
        )
        .bind(&image.system)
        .bind(digest)
        .bind(&image.id)
        .execute(&mut *tx)
        .await
        .during(DOING)?;
        sqlx::query(
            "INSERT INTO tags (system, itype, tag, id) VALUES (?, ?, ?, ?) \
             ON CONFLICT (system, itype, tag) DO UPDATE SET id = excluded.id",
        )
        .bind(&job.key.system)
        .bind(&job.key.itype)
        .bind(&job.key.tag)
        .bind(&image.id)
        .execute(&mut *tx)
        .await
        .during(DOING)?;
        sqlx::query("DELETE FROM grants WHERE system = ? AND id = ?")
            .bind(&image.system)
            .bind(&image.id)
            .execute(&mut *tx)
            .await
            .during(DOING)?;
        for grant in grants {
            rows::put_grant(&mut tx, grant).await.during(DOING)?;
        }
        tx.commit().await.during(DOING)?;
        Ok(true)
    }
}
