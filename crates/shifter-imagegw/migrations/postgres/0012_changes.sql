-- Tells whether a list that was read before is still true. Whatever changes a record, changes its revision or its state.

-- A row for each change, so that no transaction waits for another here. What is committed late makes the rows more,
-- if it does not make the last number greater.
CREATE TABLE changes (number BIGSERIAL PRIMARY KEY);
CREATE FUNCTION note_change() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    latest BIGINT;
BEGIN
    INSERT INTO changes DEFAULT VALUES RETURNING number INTO latest;
    IF latest % 1000 = 0 THEN
        DELETE FROM changes WHERE number IN
            (SELECT number FROM changes WHERE number <= latest - 1000 FOR UPDATE SKIP LOCKED);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER image_changed AFTER INSERT OR DELETE OR UPDATE OF revision, state ON images
    FOR EACH STATEMENT EXECUTE FUNCTION note_change();
