-- Of all systems' imports of files with one identifier, one at a time is at work: systems may share a directory.
CREATE UNIQUE INDEX jobs_file ON jobs (flight) WHERE substr(flight, 1, 5) = 'file ';
