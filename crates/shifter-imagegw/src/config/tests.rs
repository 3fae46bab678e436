//! Documented configurations are accepted, mistakes are named with their place.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use shifter_registry::AuthMethod;

use super::*;

const LOCAL: &str = r#"{
    "DefaultImageLocation": "registry-1.docker.io", "DefaultImageFormat": "squashfs",
    "PullUpdateTimeout": 300, "ImageExpirationTimeout": "90:00:00:00",
    "MongoDBURI":"mongodb://localhost/", "MongoDB":"Shifter",
    "CacheDirectory": "/images/cache/", "ExpandDirectory": "/images/expand/",
    "Locations": { "registry-1.docker.io": { "remotetype": "dockerv2", "authentication": "http" } },
    "Platforms": { "mycluster": {
        "mungeSocketPath": "/var/run/munge/munge.socket.2", "accesstype": "local",
        "admins": ["root"], "local": { "imageDir": "/images" } } }
}"#;

const REMOTE: &str = r#"{
    "DefaultImageLocation": "registry-1.docker.io", "DefaultImageFormat": "squashfs",
    "PullUpdateTimeout": 300, "ImageExpirationTimeout": "90:00:00:00",
    "MongoDBURI":"mongodb://localhost/", "MongoDB":"Shifter",
    "CacheDirectory": "/images/cache/", "ExpandDirectory": "/images/expand/",
    "Locations": { "registry-1.docker.io": { "remotetype": "dockerv2", "authentication": "http" } },
    "Platforms": { "mycluster": {
        "mungeSocketPath": "/var/run/munge/munge.socket.2", "accesstype": "remote",
        "admins": ["root"], "host": ["mycluster01"],
        "ssh": { "username": "shifter", "key": "/home/shifter/.ssh/ssh.key", "imageDir": "/images" } } }
}"#;

/// Every key of the original's examples and documentation, and ours.
const EVERYTHING: &str = r#"{
    "WorkerThreads": 8, "LogLevel": "DEBUG", "DefaultLustreReplication": 1, "DefaultOstCount": 16,
    "DefaultImageLocation": "index.docker.io", "DefaultImageFormat": "squashfs", "DefaultImageRemote": "x",
    "PullUpdateTimeout": 30, "PullUpdateTime": 5, "ImageExpirationTimeout": "1:02:03:04",
    "CacheDirectory": "/tmp/imagegw/", "ExpandDirectory": "/tmp/imagegw/",
    "DatabaseURI": "sqlite:///srv/c.db", "MongoDBURI": "mongodb://localhost/", "MongoDB": "ShifterTest",
    "Metrics": true, "Broker": "redis://localhost/", "Authentication": "mock", "ImportUsers": "all",
    "examiner": "/site/examine", "ExaminerTimeLimit": 30, "ExaminerSizeLimit": 2, "ExaminerPaths": ["/site/signatures"],
    "ConversionTimeLimit": 60,
    "ConverterOptions": {"squashfs": ["-comp", "zstd -Xcompression-level 3"], "cramfs": "-e 2"},
    "Locations": {
        "index.docker.io": { "remotetype": "dockerv2", "authentication": "http" },
        "urltest": { "remotetype": "dockerv2", "url": "https://index.docker.io/", "sslcacert": "ca.pem",
                     "authMethod": "basic" } },
    "Platforms": {
        "systema": { "accesstype": "remote", "mountCommand": "/bin/mount", "admins": ["root", "alice"],
            "host": "localhost", "use_external": true,
            "ssh": { "username": "user", "key": "/tmp/ssh.key", "imageDir": "/tmp/systema/images",
                     "sshCmdOptions": ["-v"], "scpCmdOptions": ["-C"] } },
        "systemb": { "mungeSocketPath": "/tmp/systemb/munge.socket", "accesstype": "local",
            "usergroupService": "local", "admins": "root", "architecture": "ARM64/v9",
            "local": { "imageDir": "/tmp/systemb/images" } } }
}"#;

fn accepted(text: &str) -> Config {
    let (config, warnings) = Config::parse(text).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(warnings, Vec::<String>::new());
    config
}

/// The documented local configuration with one change of its text.
fn changed(from: &str, to: &str) -> String {
    assert!(LOCAL.contains(from), "{from}");
    LOCAL.replacen(from, to, 1)
}

#[test]
fn documented_configurations_are_accepted() {
    for text in [LOCAL, REMOTE] {
        let config = accepted(text);
        assert_eq!(config.image_expiration, Duration::from_secs(90 * 86_400));
        assert_eq!(config.pull_update, Duration::from_secs(300));
        assert_eq!(config.platforms["mycluster"].image_dir, PathBuf::from("/images"));
        assert_eq!(config.database.to_string(), "mongodb://localhost/Shifter");
    }
    let everything = accepted(EVERYTHING);
    assert_eq!(everything.image_expiration.as_secs(), 86_400 + 2 * 3600 + 3 * 60 + 4);
    assert_eq!(everything.pull_update.as_secs(), 30);
    assert_eq!(everything.worker_threads, 8);
    assert_eq!(everything.log_level, Some("debug"));
    assert_eq!(
        everything.platforms["systemb"].converters.options,
        ["-comp", "zstd", "-Xcompression-level", "3"]
    );
    assert_eq!(everything.database, Place::Sqlite("/srv/c.db".into()));
    assert_eq!(everything.platforms["systemb"].admins, ["root"]);
    assert_eq!(everything.platforms["systemb"].architecture, "arm64/v9");
    assert_eq!(everything.platforms["systema"].admins, ["root", "alice"]);
    assert!(everything.registries.location("urltest").unwrap().auth_method == AuthMethod::Basic);
    everything.check_servable().unwrap();
    let examiner = Examiner {
        program: "/site/examine".into(),
        time: Duration::from_secs(30),
        bytes: 2_000_000_000,
        paths: vec!["/site/signatures".into()],
        configuration: PathBuf::new(),
    };
    assert_eq!(everything.examiner, Some(examiner));
    assert_eq!(accepted(LOCAL).examiner, None);
    assert_eq!(everything.conversion_time.as_secs(), 60);
    assert_eq!(accepted(LOCAL).conversion_time.as_secs(), 14_400);
}

#[test]
fn an_examiner_is_an_absolute_path_and_its_keys_need_one() {
    for (keys, problem) in [
        ("\"examiner\": \"examine\"", "examiner: must be an absolute path"),
        ("\"examiner\": \"/e\", \"ExaminerPaths\": [\"x\"]", "ExaminerPaths: must be absolute paths"),
        (
            "\"examiner\": \"/e\", \"ExaminerTimeLimit\": 0",
            "ExaminerTimeLimit: must be a whole number from 1 to 86400",
        ),
    ] {
        let text = changed("\"MongoDB\":", &format!("{keys}, \"MongoDB\":"));
        assert_eq!(Config::parse(&text).unwrap_err().to_string(), problem);
    }
    let text = changed("\"MongoDB\":", "\"ExaminerTimeLimit\": 5, \"MongoDB\":");
    let (config, warnings) = Config::parse(&text).unwrap();
    assert_eq!(warnings, ["ExaminerTimeLimit: has no effect without examiner"]);
    assert_eq!(config.examiner, None);
}

#[test]
fn the_database_is_the_one_named_first_mongodb_if_only_that_is_sqlite_else() {
    let mongo = "\"MongoDBURI\":\"mongodb://localhost/\", \"MongoDB\":\"Shifter\",";
    for (keys, expected) in [
        ("", "sqlite:///var/lib/shifter/shifter.db"),
        (r#""MongoDBURI": "mongodb://u:p@h/auth", "MongoDB": "S","#, "mongodb://h/S"),
        (
            r#""DatabaseURI": "postgres://u:p@h/s", "MongoDBURI": "mongodb://h/", "MongoDB": "S","#,
            "postgres://h/s",
        ),
        (
            r#""DatabaseURI": "sqlite:///x.db", "MongoDBURI": "mongodb://h/", "MongoDB": "S","#,
            "sqlite:///x.db",
        ),
        (r#""DatabaseURI": "mongodb://h/d","#, "mongodb://h/d"),
        (r#""DatabaseURI": "mongodb://h", "MongoDB": "S","#, "mongodb://h/S"),
    ] {
        let config = accepted(&changed(mongo, keys));
        assert_eq!(config.database.to_string(), expected, "{keys}");
        config.check_servable().unwrap();
    }
}

#[test]
fn what_this_version_cannot_honour_stops_serve_not_the_reader() {
    let with = |from: &str, to: &str| {
        let text = changed(from, to).replace("\"MongoDBURI\":\"mongodb://localhost/\",", "");
        accepted(&text).check_servable().unwrap_err().to_string()
    };
    for (from, to, named) in [
        ("\"accesstype\"", "\"policy_file\": \"/p\", \"accesstype\"", "Platforms.mycluster.policy_file"),
        ("\"squashfs\"", "\"cramfs\"", "DefaultImageFormat"),
        (
            "\"Platforms\": {",
            "\"Platforms\": { \"arm\": {\"mungeSocketPath\":\"/m\",\"accesstype\":\"local\",\"architecture\":\"arm64\",\
             \"local\":{\"imageDir\":\"/images\"}}, \"x86\": {\"mungeSocketPath\":\"/m\",\"accesstype\":\"local\",\
             \"architecture\":\"amd64\",\"local\":{\"imageDir\":\"/images\"}},",
            "share the image directory",
        ),
    ] {
        let refusal = with(from, to);
        assert!(refusal.contains(named), "{refusal}");
    }
}

#[test]
fn a_gateway_without_registries_is_odd_but_possible() {
    let without = r#""registry-1.docker.io": { "remotetype": "dockerv2", "authentication": "http" }"#;
    let (_, warnings) = Config::parse(&changed(without, "")).unwrap();
    assert_eq!(
        warnings,
        ["DefaultImageLocation: \"registry-1.docker.io\" is not one of the Locations; add it there"]
    );
}

#[test]
fn unknown_keys_are_reported_with_the_nearest_name() {
    for (from, to, warning) in [
        (
            "\"PullUpdateTimeout\"",
            "\"PullUpdateTimout\"",
            "PullUpdateTimout: unknown key, ignored; did you mean PullUpdateTimeout?",
        ),
        ("\"admins\"", "\"admin\"", "Platforms.mycluster.admin: unknown key, ignored; did you mean admins?"),
        ("\"Platforms\"", "\"Zebra\": 1, \"Platforms\"", "Zebra: unknown key, ignored"),
    ] {
        let (_, warnings) = Config::parse(&changed(from, to)).unwrap();
        assert_eq!(warnings, [warning]);
    }
}

#[test]
fn mistakes_are_named_with_their_place() {
    for (from, to, expected) in [
        ("}\n}", "},\n}", "not JSON"),
        ("\"MongoDB\":\"Shifter\",", "\"MongoDB\":\"Shifter\",,", "line 4 column"),
        ("300", "-1", "PullUpdateTimeout: must be a whole number"),
        ("300", "\"300\"", "PullUpdateTimeout: must be a whole number"),
        ("90:00:00:00", "90:00:00", "ImageExpirationTimeout: must be days:hours:minutes:seconds"),
        ("90:00:00:00", "99999999999999999999:0:0:0", "ImageExpirationTimeout"),
        ("\"/images/cache/\"", "\"cache\"", "CacheDirectory: must be an absolute path"),
        ("\"CacheDirectory\"", "\"Cache\"", "CacheDirectory: missing"),
        (
            "\"dockerv2\"",
            "\"dockerhub\"",
            "Locations.registry-1.docker.io.remotetype: \"dockerhub\" is deprecated",
        ),
        ("\"authentication\"", "\"url\"", "Locations.registry-1.docker.io.url: must begin with"),
        (
            "\"DefaultImageLocation\": \"registry-1.docker.io\"",
            "\"DefaultImageLocation\": \"quay.io\"",
            "is not one of the Locations",
        ),
        (
            "\"accesstype\"",
            "\"architecture\": \"amd64/\", \"accesstype\"",
            "Platforms.mycluster.architecture: must be one of amd64, arm64",
        ),
        (
            "\"authentication\"",
            "\"timeout\": 0, \"authentication\"",
            "Locations.registry-1.docker.io.timeout: must be a whole number",
        ),
        ("\"local\",", "\"ftp\",", "Platforms.mycluster.accesstype: must be one of local, remote"),
        ("\"local\": {", "\"ssh\": {", "Platforms.mycluster.local: missing"),
        ("\"mungeSocketPath\"", "\"x\"", "Platforms.mycluster.mungeSocketPath: missing"),
        ("[\"root\"]", "[\"root\", 0]", "Platforms.mycluster.admins: must be a string or a list of strings"),
        ("\"Platforms\": {", "\"Platforms\": { \"x\": 5,", "Platforms.x: must be an object"),
        ("\"MongoDB\":", "\"DatabaseURI\": \"mysql://h/db\", \"MongoDB\":", "DatabaseURI: must be sqlite://"),
        ("\"MongoDB\":", "\"Mongo\":", "MongoDB: must name a database"),
        ("mongodb://localhost/", "localhost", "MongoDBURI: must be a MongoDB URI"),
        (
            "\"MongoDB\":",
            "\"WorkerThreads\": 0, \"MongoDB\":",
            "WorkerThreads: must be a whole number from 1 to 256",
        ),
        ("\"MongoDB\":", "\"ConverterOptions\": [], \"MongoDB\":", "ConverterOptions: must be an object"),
        ("\"MongoDB\":", "\"DenyImages\": \"qu*y.io\", \"MongoDB\":", "\"qu*y.io\" is not a valid rule"),
        ("\"MongoDB\":", "\"AllowImages\": {}, \"MongoDB\":", "AllowImages: must be a string or a list"),
        ("\"MongoDB\":", "\"CacheSizeLimit\": 0, \"MongoDB\":", "CacheSizeLimit: must be a whole number"),
        ("\"authentication\"", "\"mirrors\"", "Locations.registry-1.docker.io.mirrors: each must begin with"),
        (
            "\"authentication\": \"http\"",
            "\"url\": \"https://h?x\"",
            "Locations: location \"registry-1.docker.io\" cannot be used: its url must not have a query",
        ),
    ] {
        let error = Config::parse(&changed(from, to)).unwrap_err().to_string();
        assert!(error.contains(expected), "{to}: {error}");
    }
    assert!(matches!(Config::parse("[]"), Err(ConfigError::NotAnObject)));
    let two = changed("300", "-1").replace("90:00:00:00", "x");
    assert_eq!(Config::parse(&two).unwrap_err().to_string().lines().count(), 2, "all problems at once");
}

#[test]
fn the_administrators_document_lists_every_key_as_it_is() {
    let document = include_str!("../../../../docs/administrator.md");
    let mut missing = Vec::new();
    for (section, keys) in keys::SECTIONS {
        let section = match *section {
            "(top level)" => "top level".to_owned(),
            named => format!("`{named}`"),
        };
        for key in *keys {
            let default = if key.default == "-" { "–" } else { key.default };
            let line = format!("| {section} | `{}` | {default} | {} |\n", key.name, key.meaning);
            if !document.contains(&line) {
                missing.push(line);
            }
        }
    }
    assert_eq!(missing.concat(), "");
}

#[test]
fn what_a_site_opens_is_said_and_nothing_is_open_by_default() {
    let config = |keys: &str| {
        let text = LOCAL.trim_end().trim_end_matches('}');
        Config::parse(&format!("{text}{keys}}}")).unwrap().0
    };
    let usual = config("");
    assert!(!usual.allow_anonymous_reads && !usual.private_is_public && usual.audit_log.is_none());
    assert_eq!(usual.openings(), [""; 0]);
    for (keys, variable, word) in [
        (r#","AllowAnonymousReads":true"#, "", "AllowAnonymousReads"),
        (r#","PrivateWithoutACL":"public""#, "", "PrivateWithoutACL"),
        (r#","Authentication":"mock""#, "", "mock"),
        ("", "DISABLE_ACL_METADATA", "DISABLE_ACL_METADATA"),
    ] {
        let mut config = config(keys);
        config.environment = Environment::read(|name| (name == variable).then(OsString::new));
        let said = config.openings();
        assert!(said.len() == 1 && said[0].contains(word), "{keys} {variable}: {said:?}");
    }
    for keys in
        [r#","AllowAnonymousReads":"yes""#, r#","PrivateWithoutACL":"nobody""#, r#","AuditLog":"audit.log""#]
    {
        let text = LOCAL.trim_end().trim_end_matches('}');
        assert!(Config::parse(&format!("{text}{keys}}}")).is_err(), "{keys}");
    }
    let labels =
        |value: &str| Environment::read(|n| (n == "ENABLE_LABELS").then(|| value.into())).show_labels;
    assert!(labels("1") && !labels(""), "an empty value shows none, as in the original");
}
