"""The store: tables, operation log, columns of points, and the directory of users and projects."""
