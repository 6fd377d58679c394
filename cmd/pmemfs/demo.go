package main

import "github.com/spf13/cobra"

func (a *app) demo() *cobra.Command       { return &cobra.Command{Use: "demo"} }
func (a *app) demoWriter() *cobra.Command { return &cobra.Command{Use: "demo-writer", Hidden: true} }
