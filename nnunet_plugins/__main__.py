from nnunet_plugins.cli import main

if __name__ == "__main__":  # nnU-Net's spawned workers import this module again
    main()
