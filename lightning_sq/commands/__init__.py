"""The subcommands that are not LightningCLI's: options in, one call, what was made printed last."""
