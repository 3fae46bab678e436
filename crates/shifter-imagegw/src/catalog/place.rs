//! Where a catalog is: the forms of `DatabaseURI`, and how a place is shown without its password.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use mongodb::options::ConnectionString;
use sqlx::postgres::PgConnectOptions;

/// The database that keeps a catalog.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// A file.
    Sqlite(PathBuf),
    /// A connection URI; what it leaves out comes from the environment (`PGHOST`, `PGPASSFILE` ...).
    Postgres(String),
    /// A connection URI and the database in it.
    Mongo { uri: String, database: String },
}

/// Why a text names no catalog; each begins with what must be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlaceError {
    #[error(
        "must be sqlite:// and an absolute path, as sqlite:///var/lib/shifter/shifter.db, or begin with \
         postgres:// or mongodb://"
    )]
    Scheme,
    #[error("must be a PostgreSQL URI, as postgres://user@host/database: {0}")]
    Postgres(#[source] sqlx::Error),
    #[error("must be a MongoDB URI, as mongodb://host/database: {0}")]
    Mongo(#[source] Box<mongodb::error::Error>),
    #[error("must be a MongoDB URI, as mongodb://host/")]
    Original,
    #[error(
        "must name the servers themselves, as mongodb://host1,host2/database; mongodb+srv is not resolved"
    )]
    Srv,
    #[error("must name a database, as mongodb://host/database, or the key MongoDB must")]
    NoDatabase,
}

impl Place {
    /// Parses a URI. `database` is used where a MongoDB URI names none.
    pub(crate) fn parse(uri: &str, database: Option<&str>) -> Result<Place, PlaceError> {
        let Some((scheme, rest)) = uri.split_once("://") else { return Err(PlaceError::Scheme) };
        match scheme {
            "sqlite" if rest.starts_with('/') => Ok(Place::Sqlite(rest.into())),
            "postgres" | "postgresql" => {
                PgConnectOptions::from_str(uri).map_err(PlaceError::Postgres)?;
                Ok(Place::Postgres(uri.to_owned()))
            }
            "mongodb" => {
                let named = ConnectionString::parse(uri).map_err(|error| PlaceError::Mongo(error.into()))?;
                let database = named.default_database.or(database.map(str::to_owned));
                let database = database.ok_or(PlaceError::NoDatabase)?;
                Ok(Place::Mongo { uri: uri.to_owned(), database })
            }
            "mongodb+srv" => Err(PlaceError::Srv),
            _ => Err(PlaceError::Scheme),
        }
    }

    /// The original's pair of keys: the database of the URI is only where its user is known.
    pub(crate) fn of_original(uri: &str, database: &str) -> Result<Place, PlaceError> {
        if !uri.starts_with("mongodb") {
            return Err(PlaceError::Original);
        }
        match Place::parse(uri, Some(database))? {
            Place::Mongo { uri, .. } => Ok(Place::Mongo { uri, database: database.to_owned() }),
            _ => Err(PlaceError::Original),
        }
    }
}

/// Without user, password and options.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Sqlite(path) => write!(f, "sqlite://{}", path.display()),
            Place::Postgres(uri) => {
                let rest = without_user(uri);
                write!(f, "postgres://{}", rest.split('?').next().unwrap_or_default())
            }
            Place::Mongo { uri, database } => {
                let hosts = without_user(uri).split(['/', '?']).next().unwrap_or_default();
                write!(f, "mongodb://{hosts}/{database}")
            }
        }
    }
}

/// As it is displayed: a configuration in a log must not tell passwords.
impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn without_user(uri: &str) -> &str {
    let rest = uri.split_once("://").map_or(uri, |(_, rest)| rest);
    rest.rsplit_once('@').map_or(rest, |(_, rest)| rest)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn each_form_names_its_database_and_shows_no_password() {
        for (uri, key, expected) in [
            ("sqlite:///var/lib/x.db", None, Ok("sqlite:///var/lib/x.db")),
            ("postgres://u:geheim@h:5433/db?application_name=geheim", None, Ok("postgres://h:5433/db")),
            ("postgresql:///db?host=/run/geheim", None, Ok("postgres:///db")),
            ("mongodb://u:geheim@h1,h2:27018/db?appName=geheim", None, Ok("mongodb://h1,h2:27018/db")),
            ("mongodb://h/", Some("Shifter"), Ok("mongodb://h/Shifter")),
            ("mongodb://h/db", Some("Shifter"), Ok("mongodb://h/db")),
            ("mongodb://h", None, Err("must name a database")),
            ("mongodb+srv://h/db", None, Err("must name the servers")),
            ("mongodb://", Some("x"), Err("must be a MongoDB URI")),
            ("postgres://h:port/db", None, Err("must be a PostgreSQL URI")),
            ("sqlite://relative.db", None, Err("must be sqlite://")),
            ("mysql://h/db", None, Err("must be sqlite://")),
            ("/var/lib/x.db", None, Err("must be sqlite://")),
        ] {
            match (Place::parse(uri, key), expected) {
                (Ok(place), Ok(shown)) => {
                    assert_eq!((place.to_string(), format!("{place:?}")), (shown.into(), shown.into()));
                }
                (Err(error), Err(begins)) => assert!(error.to_string().starts_with(begins), "{error}"),
                (found, _) => panic!("{uri}: {found:?}"),
            }
        }
        // The original reads the database from its own key; the URI's is where the user is known.
        let place = Place::of_original("mongodb://u:p@h/admin", "Shifter").unwrap();
        assert_eq!(place.to_string(), "mongodb://h/Shifter");
    }
}
