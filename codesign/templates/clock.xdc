create_clock -name clk -period $period_ns [get_ports clk]
