package cli

import (
	"github.com/spf13/cobra"
)

func (a *app) completionCommand() *cobra.Command {
	shells := []string{"bash", "zsh", "fish", "powershell"}
	return &cobra.Command{
		Use:   "completion (bash|zsh|fish|powershell)",
		Short: "print the completion script of a shell",
		Long: `completion prints a script that makes the shell complete verbs, flags, and the
names of regions, workers, groups, channels and segments, which it asks shmctl
for. Packages install it; by hand:

  bash   source <(shmctl completion bash)
  zsh    shmctl completion zsh > "${fpath[1]}/_shmctl"
  fish   shmctl completion fish > ~/.config/fish/completions/shmctl.fish`,
		Example:               `  source <(shmctl completion bash)`,
		DisableFlagsInUseLine: true,
		ValidArgs:             shells,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 || cobra.OnlyValidArgs(cmd, args) != nil {
				return usagef("completion: which shell? There are bash, zsh, fish, powershell")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(a.stdout, true)
			case "zsh":
				return root.GenZshCompletion(a.stdout)
			case "fish":
				return root.GenFishCompletion(a.stdout, true)
			}
			return root.GenPowerShellCompletionWithDesc(a.stdout)
		},
	}
}
