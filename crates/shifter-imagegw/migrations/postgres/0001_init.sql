-- The catalog, as in SQLite (../sqlite). Ids are hex of content digests; lists of uids and gids are
-- comma-separated decimal; times are seconds since the epoch; 0 and 1 are no and yes. Unique
-- constraints, not check-then-insert, keep it consistent.

-- A file pair (image and .meta) that is published on a system.
CREATE TABLE images (
    system      TEXT NOT NULL,
    id          TEXT NOT NULL,
    format      TEXT NOT NULL,
    config      TEXT NOT NULL,              -- JSON: argv, environment, labels, ...
    size        BIGINT NOT NULL,            -- of the image file, bytes
    sha256      TEXT NOT NULL,              -- of the image file, hex
    last_pull   DOUBLE PRECISION NOT NULL,
    expiration  DOUBLE PRECISION NOT NULL,
    revision    BIGINT NOT NULL,            -- counts replacements of the image with all that leads to it
    PRIMARY KEY (system, id)
);

-- Which image a digest of the registry stands for. Several may stand for one: where the id is the
-- platform manifest's, all indexes that name that manifest.
CREATE TABLE digests (
    system  TEXT NOT NULL,
    digest  TEXT NOT NULL,
    id      TEXT NOT NULL,
    PRIMARY KEY (system, digest),
    FOREIGN KEY (system, id) REFERENCES images (system, id)
);
CREATE INDEX digests_by_image ON digests (system, id);

-- What a tag means now.
CREATE TABLE tags (
    system  TEXT NOT NULL,
    itype   TEXT NOT NULL,
    tag     TEXT NOT NULL,
    id      TEXT NOT NULL,
    asked   DOUBLE PRECISION NOT NULL,      -- when the registry said so
    PRIMARY KEY (system, itype, tag),
    FOREIGN KEY (system, id) REFERENCES images (system, id)
);
CREATE INDEX tags_by_image ON tags (system, id);

-- Who proved to the registry that they may have this digest under this tag, and whom they share it with.
CREATE TABLE grants (
    system   TEXT NOT NULL,
    itype    TEXT NOT NULL,
    tag      TEXT NOT NULL,
    id       TEXT NOT NULL,
    puller   BIGINT NOT NULL,
    public   BIGINT NOT NULL CHECK (public IN (0, 1)),
    uids     TEXT NOT NULL,
    gids     TEXT NOT NULL,
    checked  DOUBLE PRECISION NOT NULL,     -- when the registry was asked last
    PRIMARY KEY (system, itype, tag, id, puller),
    FOREIGN KEY (system, id) REFERENCES images (system, id)
);
CREATE INDEX grants_by_image ON grants (system, id);

-- Pulls, at most one per caller and tag: unfinished, or finished and not yet told to the caller.
CREATE TABLE jobs (
    job               BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    system            TEXT NOT NULL,
    itype             TEXT NOT NULL,
    tag               TEXT NOT NULL,
    uid               BIGINT NOT NULL,
    gid               BIGINT NOT NULL,
    uids              TEXT NOT NULL,
    gids              TEXT NOT NULL,
    status            TEXT NOT NULL CHECK (status IN
        ('INIT', 'PENDING', 'PULLING', 'EXAMINATION', 'CONVERSION', 'TRANSFER', 'READY', 'FAILURE')),
    message           TEXT NOT NULL,
    public            BIGINT NOT NULL DEFAULT 0 CHECK (public IN (0, 1)),
    with_credentials  BIGINT NOT NULL CHECK (with_credentials IN (0, 1)),
    created           DOUBLE PRECISION NOT NULL,
    updated           DOUBLE PRECISION NOT NULL,
    fence             BIGINT NOT NULL DEFAULT 0,            -- counts claims
    holder            TEXT NOT NULL DEFAULT '',             -- who claimed it last
    lease_until       DOUBLE PRECISION NOT NULL DEFAULT 0,  -- until when without a sign of life
    UNIQUE (system, itype, tag, uid)
);
