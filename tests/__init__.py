"""The tests, a package of their own: without this file another library's `tests` may go before."""
