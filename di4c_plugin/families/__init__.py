"""The families of networks that teachers come from."""
