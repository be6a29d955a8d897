-- Version 3: no table changes; functions were added (op_forget_sessions).
SELECT;
