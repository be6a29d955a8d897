-- Version 5: no table changes. Another signature (repair.sql) takes the place of this function.
DROP FUNCTION IF EXISTS resend_unstarted(text, float8, float8, bigint, effects);
