-- Version 6: no table changes; functions take fewer statements.
SELECT;
