# SPDX-License-Identifier: Apache-2.0
require_relative "web"
run Shop
