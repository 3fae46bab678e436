-- Tells gateways that keep what lookups found of each change, when it is committed.
CREATE OR REPLACE FUNCTION note_change() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    latest BIGINT;
BEGIN
    INSERT INTO changes DEFAULT VALUES RETURNING number INTO latest;
    IF latest % 1000 = 0 THEN
        DELETE FROM changes WHERE number IN
            (SELECT number FROM changes WHERE number <= latest - 1000 FOR UPDATE SKIP LOCKED);
    END IF;
    NOTIFY shifter_catalog;
    RETURN NULL;
END $$;
