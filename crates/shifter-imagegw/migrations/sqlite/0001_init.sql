-- The catalog. Ids are hex of content digests; lists of uids and gids are comma-separated decimal;
-- times are seconds since the epoch. Unique constraints, not check-then-insert, keep it consistent.

-- A file pair (image and .meta) that is published on a system.
CREATE TABLE images (
    system      TEXT NOT NULL,
    id          TEXT NOT NULL,
    format      TEXT NOT NULL,
    config      TEXT NOT NULL,          -- JSON: argv, environment, labels, ...
    size        INTEGER NOT NULL,       -- of the image file, bytes
    sha256      TEXT NOT NULL,          -- of the image file, hex
    last_pull   REAL NOT NULL,
    expiration  REAL NOT NULL,
    PRIMARY KEY (system, id)
) STRICT;

-- Which image a digest of the registry stands for. Several may stand for one: where the id is the
-- platform manifest's, all indexes that name that manifest.
CREATE TABLE digests (
    system  TEXT NOT NULL,
    digest  TEXT NOT NULL,
    id      TEXT NOT NULL,
    PRIMARY KEY (system, digest),
    FOREIGN KEY (system, id) REFERENCES images (system, id)
) STRICT;

-- What a tag means now.
CREATE TABLE tags (
    system  TEXT NOT NULL,
    itype   TEXT NOT NULL,
    tag     TEXT NOT NULL,
    id      TEXT NOT NULL,
    PRIMARY KEY (system, itype, tag),
    FOREIGN KEY (system, id) REFERENCES images (system, id)
) STRICT;
CREATE INDEX tags_by_image ON tags (system, id);

-- Who proved to the registry that they may have this digest under this tag, and whom they share it with.
CREATE TABLE grants (
    system   TEXT NOT NULL,
    itype    TEXT NOT NULL,
    tag      TEXT NOT NULL,
    id       TEXT NOT NULL,
    puller   INTEGER NOT NULL,
    public   INTEGER NOT NULL CHECK (public IN (0, 1)),
    uids     TEXT NOT NULL,
    gids     TEXT NOT NULL,
    checked  REAL NOT NULL,             -- when the registry was asked last
    PRIMARY KEY (system, itype, tag, id, puller),
    FOREIGN KEY (system, id) REFERENCES images (system, id)
) STRICT;
CREATE INDEX grants_by_image ON grants (system, id);

-- Pulls, at most one per caller and tag: unfinished, or finished and not yet told to the caller.
CREATE TABLE jobs (
    job               INTEGER PRIMARY KEY AUTOINCREMENT,
    system            TEXT NOT NULL,
    itype             TEXT NOT NULL,
    tag               TEXT NOT NULL,
    uid               INTEGER NOT NULL,
    gid               INTEGER NOT NULL,
    uids              TEXT NOT NULL,
    gids              TEXT NOT NULL,
    status            TEXT NOT NULL CHECK (status IN
        ('INIT', 'PENDING', 'PULLING', 'EXAMINATION', 'CONVERSION', 'TRANSFER', 'READY', 'FAILURE')),
    message           TEXT NOT NULL,
    public            INTEGER NOT NULL DEFAULT 0 CHECK (public IN (0, 1)),
    with_credentials  INTEGER NOT NULL CHECK (with_credentials IN (0, 1)),
    created           REAL NOT NULL,
    updated           REAL NOT NULL,
    UNIQUE (system, itype, tag, uid)
) STRICT;
