"""What the commands share: exits and help, composition from configs, execution, surveys, bundling."""
